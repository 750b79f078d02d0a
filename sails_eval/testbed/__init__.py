"""The embedded testbed: a small model organism, its world, its SAEs and its judge, all made by `testbed build`."""
