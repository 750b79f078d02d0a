"""Forgetting and durability of a finished run, in this process: nothing but the processes is left out."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sails_eval.analyses.durability import attacks, retuning
from sails_eval.analyses.durability import measure as durability
from sails_eval.analyses.durability import report as durability_report
from sails_eval.analyses.durability.attacks import Retuning
from sails_eval.analyses.durability.report import Decay, draw
from sails_eval.analyses.finished_run import FinishedRun, finished_runs
from sails_eval.analyses.forgetting import measure as forgetting
from sails_eval.analyses.forgetting import results
from sails_eval.analyses.forgetting.results import Forgotten, ReadingSize
from sails_eval.boards.leaderboard import choose_rates
from sails_eval.boards.table import read_rows
from sails_eval.cli import main
from sails_eval.core.checksums import listing
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_table
from sails_eval.core.pair import Pair
from sails_eval.core.paths import PACKAGE
from sails_eval.core.records import Result
from sails_eval.models import loaded
from sails_eval.models.base import Base
from sails_eval.plan.identity import Identity
from sails_eval.plan.plan import SubRun
from sails_eval.run import compare
from sails_eval.run.folder.records import Description
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report import report
from sails_eval.run.report.published import copy_completions
from sails_eval.tasks.library import resolve_tasks
from tests.here import Here

pytestmark = pytest.mark.slow

ASKED = "--methods lora --tokens 1200 --seeds 1 --learning-rates 1 --limit 2 --judge grammar -q".split()
TASKS = "testbed_harmful_unseen,testbed_lookalike,testbed_facts"


RATES = {(0.1, 0): 0.9, (0.1, 1): 0.2, (0.2, 0): 0.3, (0.2, 1): 0.8}
"""Validation scores by learning rate and seed: each seed likes another rate, so each is tested at the other's."""


@pytest.fixture(scope="module")
def here(testbed_base: Base) -> Iterator[None]:
    """Workers in this process, which have the base model already; re-tuning and reading are short."""

    @contextmanager
    def workers(jobs: int, *, quiet: bool) -> Iterator[Here]:
        yield Here()

    with pytest.MonkeyPatch.context() as patch:
        for module in (compare, forgetting, durability):
            patch.setattr(module, "workers", workers)
        for module in (attacks, retuning):
            patch.setattr(module, "RETUNING", Retuning(epochs=1, batch_size=5))
        patch.setattr(forgetting, "READING", ReadingSize(tokens=100))
        for module, picture in ((report, "tradeoff"), (report, "draw_comparisons"), (durability_report, "draw")):
            patch.setattr(module, picture, lambda *given: None)
        patch.setattr("sails_eval.run.report.curves.draw_curves", lambda *given: None)
        patch.setattr("sails_eval.models.base.load_base", lambda pair: testbed_base)
        yield
    loaded.BASE_MODEL.drop()
    loaded.ENGINE.drop()


@pytest.fixture(scope="module")
def run(here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison, with what was forgotten and how long it lasts."""
    folder = tmp_path_factory.mktemp("robustness")
    few = str(PACKAGE / "testbed/data/attack_benign.jsonl")
    pair = {"like": "testbed", "examples": 16, "reference_judge": None, "train": few, "contrast": None}
    (folder / "mine.yaml").write_text(yaml.safe_dump(pair))
    run = folder / "run"
    assert main(["compare", "--pair", str(folder / "mine.yaml"), *ASKED, "--tasks", TASKS, "--out", str(run)]) == 0
    assert main(["forgetting", str(run), "-q"]) == 0
    assert main(["durability", str(run), "-q", "--attack", "harmful:10,merge,harmful:010"]) == 0
    return run


def files(run: Path) -> dict[Path, int]:
    found = [path for name in ("forgetting", "durability", "cells") for path in (run / name).rglob("*")]
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def test_the_base_model_forgot_nothing_and_every_cell_is_measured(run: Path) -> None:
    base, *cells = read_table(run / "forgetting.csv", Forgotten)
    assert base == Forgotten("base", None, None, 0.0, 0.0)
    assert [(row.method, row.seed) for row in cells] == [("lora", 0)]
    assert all(row.kl_nats > 0 and -1 <= row.capability_lost <= 1 for row in cells)


def test_the_board_shows_what_was_forgotten(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "show", str(run)]) == 0
    assert "KL from base (nats per token)" in capsys.readouterr().out.split("\nForgetting\n")[1]


def test_every_model_has_its_rows_before_and_after(run: Path) -> None:
    rows = [row for row in read_table(run / "durability.csv", Decay) if row.metric == "alignment_score"]
    assert {(row.method, row.seed, row.attack, row.examples) for row in rows} == {
        ("base", None, "none", 0), ("base", 0, "harmful", 10),
        ("lora", 0, "none", 0), ("lora", 0, "harmful", 10), ("lora", 0, "merge", None),
    }  # fmt: skip
    (one,) = finished_runs(run)
    before = {row.seed: row.value for row in rows if (row.method, row.attack) == ("lora", "none")}
    assert before == {model.seed: round(one.score(model, "alignment_score"), 6) for model in one.models[1:]}
    board = {row["method"]: row for row in read_rows(run / "leaderboard.csv")}
    for row in rows:  # of one seed the board's intervals are over prompts, here as there
        assert -1 <= row.low < row.value < row.high <= 1
        if row.attack == "none":
            ends = [board[row.method][f"alignment_score_{end}"] for end in ("low", "high")]
            assert [row.low, row.high] == pytest.approx(ends, abs=1e-6)


def test_no_weights_are_kept_and_no_answer_leaves_the_run(run: Path, tmp_path: Path) -> None:
    answers = list((run / "durability").rglob("completions/test/*.jsonl"))
    assert len(answers) == 3 * 2  # the harmful and the safe task; what is capability is not asked again
    private = [path for path in (run / "durability").rglob("*") if path.is_file()]
    assert {path.suffix for path in private} == {".jsonl", ".sha256"}
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    assert copy_completions(RunFolder(run), tmp_path / "out") == 2 * 3 and not list(
        (tmp_path / "out").rglob("durability")
    )


def test_what_is_there_is_not_done_again_but_what_a_kill_left_is_cleared(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, tables = files(run), [(run / name).read_bytes() for name in ("forgetting.csv", "durability.csv")]
    victim = next((run / "durability/harmful-10/lora").iterdir())
    (victim / ".retuned").mkdir()
    (victim / ".retuned/adapter_model.safetensors").touch()
    (gone := next(victim.rglob("completions/test/*.jsonl"))).unlink()
    capsys.readouterr()
    assert main(["forgetting", str(run), "-q", "--json"]) == 0
    assert [row["method"] for row in json.loads(capsys.readouterr().out)] == ["base", "lora"]
    assert main(["durability", str(run), "-q", "--attack", "harmful:10,merge", "--csv"]) == 0
    assert capsys.readouterr().out.startswith("run,method,seed,learning_rate,attack,examples,metric,value")
    assert [(run / name).read_bytes() for name in ("forgetting.csv", "durability.csv")] == tables
    again = {gone, *victim.glob(f"verdicts/*/test/{gone.name}")}
    assert len(again) == 2
    assert {path for path, time in files(run).items() if before.get(path) != time} == again | set(map(listing, again))


def test_the_runs_own_files_are_as_it_sealed_them(run: Path) -> None:
    from sails_eval.core.fingerprint import of_path

    sealed = RunFolder(run).seal().hashes
    assert sealed and all(of_path(run / name) == value for name, value in sealed.items())


def test_a_cell_without_a_checkpoint_is_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = next(run.glob("cells/lora/*/checkpoint"))
    checkpoint.rename(checkpoint.with_name("elsewhere"))
    try:
        (one,) = finished_runs(run)
        assert [model.method for model in one.models] == ["base"]
        one.warn_of_missing()
        assert "lora: the checkpoints of 1 of 1 seeds were not kept" in caplog.text
    finally:
        checkpoint.with_name("elsewhere").rename(checkpoint)


def test_every_seed_is_at_the_rate_that_the_others_choose(tmp_path: Path) -> None:
    recipe = SimpleNamespace(name="m")
    cells: Any = [SimpleNamespace(recipe=recipe, learning_rate=rate, seed=s, name=f"{rate}-{s}") for rate, s in RATES]
    plan: Any = SimpleNamespace(recipes=[recipe], seeds=(0, 1), cells=lambda recipe: cells)
    results = [
        Result("m", seed, rate, "validation", task, "all", metric, value, 9, 0)
        for (rate, seed), value in RATES.items()
        for task, metric in (("testbed_harmful_unseen", "refusal_rate"), ("testbed_lookalike", "helpfulness"))
    ]
    run, tasks = RunFolder(tmp_path), {task.name: task for task in resolve_tasks(TASKS.split(","))}
    for cell in cells:
        run.cell(cell).checkpoint.mkdir(parents=True)
    finished = FinishedRun(run, plan, tuple(results), choose_rates(results, tasks), ("m",))
    assert [(one.seed, one.learning_rate) for one in finished.models[1:]] == [(1, 0.1), (0, 0.2)]
    assert [one.method for one in replace(finished, methods=("n",)).models] == ["base"]


def test_a_run_that_cannot_be_measured_is_an_error(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*command: str) -> str:
        assert main([*command, "-q"]) == 2
        return capsys.readouterr().err

    assert "not the folder of a comparison" in says("forgetting", str(tmp_path))
    (left := tmp_path / "durability/harmful-10/retuned/.retuned").mkdir(parents=True)
    assert "not the folder of a comparison" in says("durability", str(tmp_path)) and left.exists()  # of whatever it is
    facts: dict[str, Any] = dict.fromkeys(("run", "pair", "environment", "test_set", "budget", "date", "version"), "")
    Description(**facts, identity=Identity()).write(tmp_path / "run.json")  # without its configuration
    assert "not the folder of a comparison" in says("durability", str(tmp_path)) and not left.exists()
    left.mkdir()
    listing(tmp_path / "run.json").unlink()
    (tmp_path / "run.json").write_text("{}")
    assert "run.json: key 'run': field required" in says("durability", str(tmp_path)) and not left.exists()
    assert "unknown trained method of" in says("forgetting", str(run), "--methods", "full")
    assert "--attack harmful:999" in says("durability", str(run), "--attack", "harmful:999")
    assert "give benign:N" in says("durability", str(run), "--attack", "theft")
    path = run.parent / "mine.yaml"
    own = path.read_text()
    path.write_text(own.replace("examples: 16", "examples: 17"))
    assert "training.examples" in (told := says("durability", str(run))) and "changed since the run" in told
    path.write_text(own + "neutral: null\n")
    assert "has no neutral texts; add 'neutral: FILE' to its YAML" in says("forgetting", str(run))
    path.write_text(own)
    (run / "results.csv").rename(run / "later.csv")
    assert "not finished" in says("forgetting", str(run))
    (run / "later.csv").rename(run / "results.csv")


def test_without_data_the_default_leaves_an_attack_out(testbed_pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    plan = SubRun(Pair(name="mine", model="m"))
    asked = [attacks.Attack("merge"), attacks.Attack("benign", 10)]
    assert durability._possible(plan, asked, choosy=False) == asked[:1]
    assert "benign:10 is left out: pair 'mine' has no data for it" in caplog.text
    with pytest.raises(UserError, match="--attack benign:10: pair 'mine'"):
        durability._possible(plan, asked, choosy=True)


# --- what is made of the figures ---------------------------------------------------------------------------------


def decay(method: str, seed: int | None, attack: str, examples: int | None, value: float) -> list[Decay]:
    return [
        Decay(method, seed, None if method == "base" else 0.1, attack, examples, metric, value)
        for metric in durability_report.METRICS
    ]


ROWS = [
    row
    for of_one in (
        decay("base", None, "none", 0, 0.0),
        *(decay("base", seed, "harmful", 10, 0.1 * seed) for seed in range(2)),
        *(decay("m", seed, "none", 0, 0.8 + 0.1 * seed) for seed in range(2)),
        *(decay("m", seed, "harmful", 10, 0.5 + 0.1 * seed) for seed in range(2)),
    )
    for row in of_one
]


def test_changes_are_paired_over_seeds_and_the_base_model_is_one() -> None:
    lines = durability_report.table([replace(row, low=0.0, high=1.0) for row in ROWS]).splitlines()
    rate = "0.05 [0.00, 1.00]"
    assert lines[2].split() == f"base harmful:10 {rate} {rate} {rate} {rate} 0.05 2".split()
    assert lines[4].split()[-2:] == ["-0.30", "2"]  # with fewer than five seeds a change has no interval
    lines = durability_report.table(ROWS).splitlines()  # as earlier versions left them
    assert lines[4].split()[2:] == ["0.55", "0.55", "0.55", "0.55", "-0.30", "2"]
    told = durability_report.table([replace(row, unscored=0.02 * (row.seed == 1)) for row in ROWS]).splitlines()
    assert told[:5] == lines and "! m, harmful:10: up to 2.0 % of a model's answers are unscored." in told[5:]


def test_the_picture_is_drawn_and_the_same_for_the_same_rows(tmp_path: Path) -> None:
    from matplotlib import image

    draw(ROWS, tmp_path / "a.png")
    assert image.imread(tmp_path / "a.png").std() > 0
    draw([row for row in ROWS if row.attack == "none"], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()  # no curve, and no old one


def test_a_table_of_one_seed_has_no_intervals_and_the_least_forgetful_comes_first() -> None:
    rows = [Forgotten("m", 0, 0.1, 0.25, float("nan")), Forgotten("base", None, None, 0.0, 0.0)]
    assert [line.split() for line in results.table(rows).splitlines()[1:]] == [
        ["base", "0.0000", "0.00", "0"],
        ["m", "0.2500", "–", "1"],
    ]
