"""The boards that the repository ships."""

from sails_eval.boards.publish import check
from sails_eval.boards.table import BEFORE_REFUSALS, read_rows
from sails_eval.core.paths import bundled


def test_every_shipped_board_is_in_order_and_counts_refusals() -> None:
    """Those from before refusals were counted are withdrawn: none comes back."""
    files = [path for path in bundled("leaderboards").iterdir() if path.name not in ("README.md", "paper.csv")]
    for board in (path for path in files if path.suffix == ".csv"):
        assert check(board) == []
        assert BEFORE_REFUSALS not in {row["schema"] for row in read_rows(board)}
    tables, pages = ({path.stem for path in files if path.suffix == suffix} for suffix in (".csv", ".md"))
    assert tables == pages
