"""What SAEs were trained on: in the ledger, on boards, and unknown where nobody says it."""

from pathlib import Path

import pytest

from sails_eval.boards.page import to_markdown
from sails_eval.boards.publish import check
from sails_eval.boards.table import COLUMNS, TEXTS, make_frame, read_rows, write_frame
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource, load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.schema import validate
from sails_eval.methods.subspace.prepare import start_seed
from sails_eval.plan.plan import SubRun
from sails_eval.run.folder.records import SubspaceReport
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.row_facts import sae_tokens


def test_tokens_of_several_saes_add_up_and_one_unknown_makes_all_unknown(tmp_path: Path) -> None:
    def told(pair: Pair, method: str = "sails", **settings: str) -> int | None:
        """Of a method that started from the pair's SAEs, or from a set of them."""
        recipe, run = load_recipe(method).model_copy(update={"settings": settings}), RunFolder(tmp_path)
        used = pair.sae_sources(settings.get("saes")) if recipe.init == "sails" else ()
        start = run.subspace_report_file(method, start_seed(pair, recipe, 0))
        SubspaceReport(saes=[sae.name for sae in used]).write(start)
        return sae_tokens(run, SubRun(pair, recipes=(recipe,), seeds=(0,)), recipe)

    pair = load_pair("testbed")
    assert told(pair) == 4 * 600 * 1024  # four layers, 600 steps of 1,024 tokens
    assert told(pair, saes="one") == 600 * 1024
    assert told(pair, "activation-svd") == told(pair, "lora") == 0
    more = (*pair.saes, SaeSource(release="r", id="i"))
    assert told(pair.model_copy(update={"saes": ()})) == 0 and told(pair.model_copy(update={"saes": more})) is None
    assert told(load_pair("qwen3-8b")) is None


def test_a_sae_that_is_charged_has_to_say_what_it_was_trained_on() -> None:
    with pytest.raises(UserError, match="'training_tokens'"):
        validate(SaeSource, {"path": "sae", "self_trained": True}, where="pair.yaml")


def test_boards_show_unknown_tokens_as_such(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, "") | {"run": "r", "schema": 2, "seeds": 0, "trainable_params": 0, "train_tokens": 0}
    row |= {name: None for name in COLUMNS if row[name] == "" and name.split("_")[0] not in ("method", "run")}
    row |= dict.fromkeys([text for text in TEXTS if text in COLUMNS], "") | {"run": "r"}
    row |= {"organisms": 1, "tuning_trials": 0, "unscored": 0.0, "trainable_pct": 0.0}
    rows = [row | {"method": name, "sae_tokens": n} for name, n in (("a", 2_457_600), ("b", None), ("c", 0))]
    write_frame(tmp_path / "board.csv", make_frame(rows))
    told = {row["method"]: row["sae_tokens"] for row in read_rows(tmp_path / "board.csv")}
    assert told == {"a": 2_457_600, "b": None, "c": 0}
    lines = (tmp_path / "board.csv").read_text().splitlines()
    at = COLUMNS.index("sae_tokens")
    assert [line.split(",")[at] for line in lines[1:]] == ["2457600", "", "0"]
    table = to_markdown(make_frame(rows))
    assert "| SAE tokens |" in table and "| 2,457,600 |" in table and "| unknown |" in table
    assert "SAE tokens" not in to_markdown(make_frame([rows[2]]))


def test_boards_from_before_there_was_the_column_can_be_read(old_run: Path, tmp_path: Path) -> None:
    """Unknown where there was an SAE, and none elsewhere."""
    frame = make_frame(read_rows(old_run / "run" / "leaderboard.csv"))
    write_frame(tmp_path / "older.csv", frame.drop(columns="sae_tokens"))
    assert check(tmp_path / "older.csv") == []
    tokens = {row["method"]: row["sae_tokens"] for row in read_rows(tmp_path / "older.csv")}
    assert tokens == {"base": 0, "lora": 0, "sails": None}
