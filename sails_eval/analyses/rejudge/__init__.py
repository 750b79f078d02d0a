"""Another judge's board of a finished run, beside the first: nothing is generated."""
