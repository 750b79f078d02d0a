"""The run folder: where things lie, what it says of itself, what a later run may reuse."""
