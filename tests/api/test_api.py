"""The Python API: what it can be told, what it gives back, and what it says of what is wrong."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sails_eval
from sails_eval import Run, UserError
from sails_eval.api.settings import ComparisonSettings, EvaluationSettings
from sails_eval.cli import parser
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.records import DECLINED

CHEAP = """
import sys, sails_eval
assert set(sails_eval.__all__) <= set(dir(sails_eval)), dir(sails_eval)
print(*{"torch", "pandas", "pydantic", "transformers", "yaml"} & sys.modules.keys())
"""


def test_importing_the_package_imports_nothing_heavy() -> None:
    told = subprocess.run([sys.executable, "-c", CHEAP], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    everything: dict[str, Any] = {}
    exec("from sails_eval import *", everything)
    assert set(sails_eval.__all__) <= everything.keys()
    with pytest.raises(AttributeError, match="'sails_eval' has no attribute 'compere'"):
        sails_eval.compere  # noqa: B018


def test_the_settings_are_those_of_the_command_line() -> None:
    assert ComparisonSettings.__annotations__.keys() == CompareConfig.model_fields.keys()
    flags = vars(parser("evaluate").parse_args(["evaluate", "x"])).keys()
    assert EvaluationSettings.__annotations__.keys() == flags & CompareConfig.model_fields.keys()


def test_help_and_notebooks_are_told_every_setting_and_its_default() -> None:
    told = inspect.signature(sails_eval.compare).parameters
    assert told.keys() == {"quiet", *CompareConfig.model_fields}
    assert (told["methods"].default, told["seeds"].default) == (("sails", "lora", "full"), 5)
    evaluation = inspect.signature(sails_eval.evaluate).parameters
    assert list(evaluation)[:3] == ["target", "name", "quiet"] and "seeds" not in evaluation


def test_a_setting_that_there_is_not_is_an_error() -> None:
    with pytest.raises(UserError, match=r"^compare: unknown key 'sedes'; did you mean seeds"):
        sails_eval.compare(sedes=3)  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"^compare: key 'jobs': input should be greater"):
        sails_eval.compare(jobs=0)
    with pytest.raises(UserError, match=r"^evaluate: unknown key 'seeds'"):
        sails_eval.evaluate("adapter", seeds=3)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="unknown method 'sials'; did you mean sails"):
        sails_eval.compare(methods=["sials"])


@pytest.fixture
def run(asked: dict[str, Any], pool: object) -> Run:
    """A run of two methods, two rates and two seeds, of which one is tested at one rate and one at the other."""
    return sails_eval.compare(**asked, quiet=True)


def test_a_run_gives_the_tables_of_its_files(run: Run) -> None:
    again = sails_eval.load_run(str(run.path))
    assert again == run and again.leaderboard is again.leaderboard
    assert set(run.leaderboard["method"]) == {"base", "lora", "sails"}
    results = again.results
    assert list(results.columns[:4]) == ["sub_run", "method", "seed", "learning_rate"]
    assert set(results["seed"].dropna()) == {0, 1} and results["seed"].dtype == "Int64"
    assert results.loc[results["method"] == "base", "learning_rate"].isna().all()
    assert len(results) == len((run.path / "results.csv").read_text().splitlines()) - 1
    assert run.report() == (run.path / "leaderboard.md").read_text()


def test_the_samples_are_what_the_leaderboard_was_made_of(run: Run) -> None:
    samples = run.samples()
    harmful = samples[samples["task"] == "bad"]
    board = run.leaderboard.set_index("method")["refusal_rate"]
    for method in ("base", "lora", "sails"):
        of_seeds = harmful[harmful["method"] == method].groupby("seed", dropna=False)["label"]
        rates = [labels.isin(DECLINED).mean() for _, labels in of_seeds]
        assert len(rates) == (1 if method == "base" else 2)
        assert sum(rates) / len(rates) == pytest.approx(board[method], abs=1e-6)
    assert set(samples["split"]) == {"test"} and harmful["score"].isin([1, 2, 3, 4, 5]).all()
    assert samples.loc[samples["task"] == "good", "score"].isna().all() and samples["unscored"].isna().all()
    row = harmful.iloc[0]
    assert (row["prompt"], row["id"]) == ("p", "0") and row["response"].startswith(("I cannot", "Here is how"))


def test_samples_are_chosen_by_method_seed_task_split_and_rate(run: Run) -> None:
    one = run.samples(method="sails", seed=1, task="good", split="validation")
    assert set(zip(one["method"], one["seed"], one["task"], one["split"], strict=True)) == {
        ("sails", 1, "good", "validation")
    }
    assert one["learning_rate"].nunique() == 1
    assert run.samples(method="sails", seed=1, split="validation", all_rates=True)["learning_rate"].nunique() == 2
    with pytest.raises(UserError, match=r"unknown method of .* 'sial'; did you mean sails"):
        run.samples(method="sial")
    with pytest.raises(UserError, match=r"unknown seed of .* '7'; known: 0, 1"):
        run.samples(seed=7)
    with pytest.raises(UserError, match=r"unknown split of .* 'nope'; known: test, validation"):
        run.samples(split="nope")  # type: ignore[arg-type]
    of_text = run.samples(seed="1", split="validation")  # type: ignore[arg-type]
    assert len(of_text) == len(run.samples(seed=1, split="validation")) > 0
    assert list(run.samples(method="base", seed=1).columns) == list(one.columns)  # no such row, and still a table


def test_an_adapter_is_the_one_at_the_rate_on_the_leaderboard(run: Run) -> None:
    rate = format(float(run.leaderboard.set_index("method")["learning_rate"]["lora"]), "g")
    for seed, asked_for in ((0, None), (0, 0), (1, 1)):
        folder = run.adapter("lora", asked_for)
        assert folder.is_dir() and folder.parent.name.startswith(f"rate-{rate}-seed-{seed}-")
    with pytest.raises(UserError, match=r"unknown trained method of .* 'base'; known: lora, sails"):
        run.adapter("base")
    with pytest.raises(UserError, match=r"unknown seed of lora '2'; known: 0, 1"):
        run.adapter("lora", 2)


def test_an_adapter_that_was_not_kept_is_an_error(asked: dict[str, Any], pool: object) -> None:
    run = sails_eval.compare(**asked, keep="none", quiet=True)
    with pytest.raises(UserError, match=r"checkpoint: not kept; .* keep='best'"):
        run.adapter("sails")


def test_a_run_over_several_pairs_is_made_of_runs(asked: dict[str, Any], pool: object) -> None:
    run = sails_eval.compare(**asked | {"pair": ["a.yaml", "b.yaml"]}, quiet=True)
    assert set(run.results["sub_run"]) == set(run.samples()["sub_run"]) == {"a", "b"} == run.sub_runs.keys()
    assert run.sub_runs["a"].adapter("sails").is_relative_to(run.path / "a")
    assert run.sub_runs["a"].sub_runs == {} and set(run.sub_runs["a"].results["sub_run"]) == {""}
    with pytest.raises(UserError, match="with NAME one of a, b"):
        run.adapter("sails")


def test_what_is_no_finished_run_is_an_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder \(no run\.json\)"):
        sails_eval.load_run(tmp_path / "nowhere")
    (run.path / "leaderboard.csv").unlink()
    with pytest.raises(UserError, match="the run is not finished; give its command again"):
        sails_eval.load_run(run.path)


def test_a_notebook_shows_the_headline_and_what_to_beware_of(run: Run) -> None:
    assert repr(run) == f"Run('{run.path}': {', '.join(run.leaderboard['method'])} on a)"
    run.leaderboard.loc[0, "warnings"] = "<script>alert(1)</script>"
    html = run._repr_html_()
    assert "<td>sails</td>" in html and "alert(1)" in html and "<script>" not in html


def test_a_run_of_an_earlier_version_can_be_read(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old_run)
    run = sails_eval.load_run("run")
    assert set(run.samples()["method"]) == {"base", "lora", "sails"} == set(run.leaderboard["method"])
