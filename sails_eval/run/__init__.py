"""Doing it: workers, stages, comparing, evaluating."""
