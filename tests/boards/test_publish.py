"""Boards of several runs: what is merged, what is refused, what `check` finds."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

from sails_eval.boards.publish import check, publish
from sails_eval.boards.table import COLUMNS, SCHEMA, SINCE_REFUSALS, make_frame, read_rows, write_frame
from sails_eval.cli.show import show
from sails_eval.core.checksums import listing
from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import of_path
from sails_eval.plan.identity import Identity
from sails_eval.run.folder.records import Description, Finished
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.published import published_rows
from tests.boards.small_board import board


def finished(folder: Path, name: str, **changes: str) -> Path:
    """A run folder with what publishing needs of it, and with what must not leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_frame(folder / "leaderboard.csv", board(name))
    described: dict[str, Any] = {"run": name, "pair": "testbed", "environment": "e1", "test_set": "t1"}
    described |= {"budget": "20k x 3", "date": "d", "version": "v", **changes}
    Description(**described, identity=Identity()).write(folder / "run.json")
    return folder


def publish_run(folder: Path, board: Path, *, force: bool = False, exploratory: bool = True) -> None:
    """As the command does."""
    publish(published_rows(RunFolder(folder)), board, force=force, exploratory=exploratory)


def test_a_run_without_a_protocol_is_published_only_as_what_it_is(tmp_path: Path) -> None:
    run, path = finished(tmp_path / "a", "r1"), tmp_path / "tiny.csv"
    with pytest.raises(
        UserError, match=r"run 'r1' is exploratory: .* repeat it with --protocol confirm .*, or add --exploratory"
    ):
        publish_run(run, path, exploratory=False)
    assert not path.exists()
    publish_run(run, path)
    assert "Exploratory" in path.with_suffix(".md").read_text()
    untrained = [row for row in published_rows(RunFolder(run)) if not row["seeds"]]  # as of evaluate
    assert untrained and len(publish(untrained, tmp_path / "other.csv")) == len(untrained)


def test_publishing_merges_runs_and_the_same_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "boards" / "tiny.csv"
    publish_run(finished(tmp_path / "a", "r1"), path)
    publish_run(finished(tmp_path / "b", "r2"), path)
    once = path.read_bytes(), path.with_suffix(".md").read_bytes()
    publish_run(tmp_path / "a", path)
    publish_run(tmp_path / "b", path)
    assert (path.read_bytes(), path.with_suffix(".md").read_bytes()) == once
    rows = read_rows(path)
    assert list(rows[0]) == [*COLUMNS, "pair", "environment", "test_set", "budget"]
    assert len(rows) == 8 and [row["rank"] for row in rows] == [1, 1, 1, 1, 5, 5, 7, 7]
    assert {row["budget"] for row in rows} == {"20k x 3"}
    assert check(path) == []
    assert "| run |" in once[1].decode() and "Mixed board" not in once[1].decode()
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.csv", "tiny.md"]


@pytest.mark.parametrize("key", ["environment", "test_set"])
def test_publishing_refuses_to_mix_unless_told(key: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    publish_run(finished(tmp_path / "a", "r1"), path)
    before = path.read_bytes()
    other = finished(tmp_path / "b", "r2", **{key: "other"})
    with pytest.raises(UserError, match=f"another {key.replace('_', ' ')} .*--allow-mixed"):
        publish_run(other, path)
    assert path.read_bytes() == before
    publish_run(other, path, force=True)
    assert "Mixed board: rows of 2" in path.with_suffix(".md").read_text()
    assert len(read_rows(path)) == 8
    # a run that is published again under another environment replaces itself, which mixes nothing
    publish_run(finished(tmp_path / "a", "r1", **{key: "other"}), path)
    assert "Mixed board" not in path.with_suffix(".md").read_text()


def test_publishing_refuses_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    publish_run(finished(tmp_path / "a", "r1"), path)
    path.write_text(re.sub(rf",{SCHEMA},testbed", ",2,testbed", path.read_text()))
    for force in (False, True):
        with pytest.raises(UserError, match=r"another schema \(2\) than run 'r2' \(3\); publish to another board$"):
            publish_run(finished(tmp_path / "b", "r2"), path, force=force)


def before_refusals(path: Path) -> Path:
    """Make a leaderboard what an earlier version would have written of it."""
    rows = [{**row, "schema": 2} for row in read_rows(path)]
    kept = [column for column in COLUMNS if column not in SINCE_REFUSALS]
    write_frame(path, make_frame(rows)[kept])
    return path


def test_a_board_from_before_refusals_were_counted_is_shown_checked_and_published(tmp_path: Path) -> None:
    path = before_refusals(finished(tmp_path / "a", "r1") / "leaderboard.csv")
    assert ",refusal_rate," not in path.read_text() and check(path) == []
    assert "! Made before refusals were counted (schema 2)" in show(path)
    assert all(math.isnan(row["refusal_rate"]) for row in read_rows(path))
    publish_run(tmp_path / "a", tmp_path / "old.csv")
    assert check(tmp_path / "old.csv") == [] and {row["schema"] for row in read_rows(tmp_path / "old.csv")} == {2}
    assert "Made before refusals were counted" in (tmp_path / "old.md").read_text()
    with pytest.raises(UserError, match="another schema"):
        publish_run(finished(tmp_path / "b", "r2"), tmp_path / "old.csv", force=True)


def test_a_leaderboard_that_was_changed_since_the_run_is_not_published(tmp_path: Path) -> None:
    board = finished(tmp_path / "a", "r1") / "leaderboard.csv"
    Finished(asked="", files={board.name: of_path(board)}).write(tmp_path / "a/finished.json")
    publish_run(tmp_path / "a", tmp_path / "tiny.csv")
    rows = read_rows(board)
    write_frame(board, make_frame([{**rows[0], "judge": "another"}, *rows[1:]]))
    with pytest.raises(
        UserError, match=r"leaderboard\.csv: changed since the run was finished; give its command again"
    ):
        publish_run(tmp_path / "a", tmp_path / "tiny.csv", force=True)


def test_publishing_bad_runs(tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    with pytest.raises(UserError, match=r"leaderboard\.csv: no such file"):
        publish_run(tmp_path, path)
    with pytest.raises(UserError, match=r"not a \.csv file"):
        publish_run(finished(tmp_path / "a", "r1"), tmp_path / "tiny.md")
    with pytest.raises(UserError, match="describes run 'r9'"):
        publish_run(finished(tmp_path / "a", "r1", run="r9"), path)
    listing(tmp_path / "a" / "run.json").unlink()
    (tmp_path / "a" / "run.json").write_text('{"run": "r1", "pair": "p", "budget": "b"}')
    with pytest.raises(UserError, match="key 'environment': field required; key 'test_set': field required"):
        publish_run(tmp_path / "a", path)
    (tmp_path / "a" / "run.json").unlink()
    with pytest.raises(UserError, match=r"not a run folder \(no run\.json\)"):
        publish_run(tmp_path / "a", path)
    with pytest.raises(UserError, match="a run's leaderboard and not a board"):
        publish_run(finished(tmp_path / "b", "r2"), finished(tmp_path / "c", "r3") / "leaderboard.csv")
    assert not path.exists()


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("schema", "7", f":2: schema 7, not {SCHEMA}"),
        ("refusal_rate", "1.2", ":2: refusal_rate 1.2 .* is not within 0 to 1"),
        ("refusal_rate_low", "0.95", ":2: refusal_rate 0.82"),
        ("harm_score_high", "", ":2: harm_score"),
        ("unscored", "-0.1", ":2: unscored is -0.1"),
        ("judge", "=cmd()", ":2: judge '=cmd\\(\\)' would run as a formula"),
        ("method", "", ":2: method is empty"),
        ("method", "full", "2 rows of method 'full' in run 'r1'"),
        ("rank", "2", "not ranked by alignment score"),
        ("rank", "", "not ranked by alignment score"),
        ("alignment_score_best", "0.5", ":2: alignment_score 0.73 is not within .* to 0.5, its bounds"),
        ("alignment_score", "0.7", "not ranked by alignment score"),
        ("seeds", "many", ":2: seeds is 'many', not a number"),
        ("trainable_params", "9" * 30, ":2: trainable_params is '" + "9" * 30 + "', not a number that is valid here"),
    ],
)
def test_check_finds(column: str, cell: str, problem: str, tmp_path: Path) -> None:
    path = finished(tmp_path, "r1") / "leaderboard.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[1][list(COLUMNS).index(column)] = cell
    path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    assert any(re.search(problem, found) for found in check(path)), check(path)


def test_check_finds_wrong_columns_and_empty_boards(tmp_path: Path) -> None:
    path = finished(tmp_path, "r1") / "leaderboard.csv"
    text = path.read_text()
    path.write_text(text.replace("harm_score_low", "harm_low"))
    assert re.search(f"not the columns of schema {SCHEMA} .*harm_low", check(path)[0])
    path.write_text(text.replace("not_distinguished_from", "tied_with"))
    assert re.search("tied_with.*older version made it, give the command of its run again", check(path)[0])
    path.write_text(text.splitlines()[0] + "\n")
    assert check(path) == [f"{path}: no rows"]


def test_show_renders_a_run_and_a_board(tmp_path: Path) -> None:
    publish_run(finished(tmp_path / "a", "r1"), tmp_path / "tiny.csv")
    assert show(tmp_path / "a") == show(tmp_path / "tiny.csv")
    assert show(tmp_path / "a").startswith("#  method") and "! One organism" in show(tmp_path / "a")
    publish_run(finished(tmp_path / "b", "r2"), tmp_path / "tiny.csv")
    assert "sails (r2)" in show(tmp_path / "tiny.csv")
    with pytest.raises(UserError, match="no such run folder or board"):
        show(tmp_path / "nothing.csv")
    with pytest.raises(UserError, match=r"tiny\.md: not a board \(\.csv file\)"):
        show(tmp_path / "tiny.md")
