"""A small package that adds one of each kind to sails-eval."""
