"""Comparisons in which nothing is trained, as the tests of whole comparisons have them."""

from tests.run.test_compare import asked, pool

__all__ = ["asked", "pool"]
