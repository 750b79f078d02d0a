"""What several tests of whole comparisons ask for."""

from tests.run.test_compare import asked

__all__ = ["asked"]
