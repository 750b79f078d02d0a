"""The JSON and YAML files of a run folder: what is written is read back, and what is of a later version is refused."""

import json
import re
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sails_eval.analyses.forgetting.measure import Measured
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.checksums import listing
from sails_eval.core.errors import UserError
from sails_eval.core.schema import Frozen, Record
from sails_eval.judges.base import Usage
from sails_eval.judges.usage import Used, add_usage, read_usage
from sails_eval.methods.subspace.sae_folder import LayerRecord, SaeRecord
from sails_eval.methods.subspace.sae_training import SaeSettings
from sails_eval.plan.budget import Cost
from sails_eval.plan.identity import Identity
from sails_eval.plan.protocol import Protocol
from sails_eval.run.folder.records import (
    Choices,
    Description,
    Failed,
    Finished,
    Pace,
    PreparationCost,
    Reused,
    Seal,
    StepRecord,
    Stopped,
    SubspaceReport,
    Timed,
    TrainRecord,
    Tuned,
)

CHOICE = Choice("lora", 1e-6, ((1e-6, 0.25), (3e-05, -0.5)), ((0, 1e-6), (1, 3e-05)))
DESCRIPTION: dict[str, Any] = {
    **dict.fromkeys(("run", "pair", "environment", "test_set", "budget", "version"), "a text, 漢 😀"),
    "date": "2020-02-02",
    "config": {"pair": "testbed", "seeds": 2},
}
COSTS: dict[str, Any] = {
    "flops": 10**18,
    "seconds": 1.5e16,
    "peak_memory_bytes": 9,
    "trainable_params": 25,
    "total_params": 1000,
}
SAE = {"explained": 0.9, "l0": 30.5, "active": 1.0, "dead": 0.0}
SEEN: dict[str, Any] = {"labelled_examples": 64, "further_examples": 0, "rejected_answers": 3}

SAES = SaeSettings(layers=(1, 3))

RECORDS: dict[str, Record] = {
    "training.json": SaeRecord(
        model="m", texts="t", identity="i", settings=SAES, versions={"torch": "2"}, layers={1: LayerRecord(**SAE)}
    ),
    "run.json": Description(**DESCRIPTION, identity=Identity(training={"rate": 1e-6}, seeds=2, contrasts=[["a", "b"]])),
    "parts/run.json": Description(**DESCRIPTION, identity=Identity(parts={"a": Identity(judge="j"), "b": Identity()})),
    "train.json": TrainRecord(tokens=9, steps=5, examples=80, unique_examples=64, losses=[1e-6, 2.0], **COSTS, **SEEN),
    "step-2/train.json": StepRecord(steps=2),
    "subspace/sails.json": SubspaceReport(
        cost=PreparationCost(tokens=1, flops=2, seconds=0.5, sae_flops=4),
        saes=["narrow/sae"],
        saw=["the planted subspace"],
        found={"0": {"kept": 3, "least": 1e-6, "most": 1.5e16}, "cost": "of its own"},
    ),
    "finished.json": Finished(asked="a", files={"results.csv": "1"}),
    "choices.json": Choices(choices={"lora": CHOICE, "base": Choice("base", None)}),
    "failed.json": Failed(rows={"lora": "1 of 4 cells failed"}),
    "tuning.json": Tuned(scores={"lora": {0.0: 0.5, 0.5: nan, 1.0: -1e-6}}, best="lora"),
    "protocol.yaml": Protocol(
        organisms=("a", "b: c"),
        methods=("lora",),
        tasks=("bad", "good"),
        limit=None,
        judge="rules",
        budgets=("all examples, 50 steps",),
        trials=6,
        recipes={"a": "0"},
        grids={"a": (0.1, 0.2)},
        comparisons=("best:rest@alignment_score",),
        left_out=(),
        secondary=(),
        unit="seed: é",
        tuning_seeds={"a": (500, 501)},
        tuning="grid × 2",
        test_seeds={"a": (0,), "b: c": (1000,)},
        stop="fixed",
    ),
    "stopped.json": Stopped(step=2, alignment_score={1: None, 2: 0.5, 3: -1e-6}),
    "cells.json": Seal(hashes={"cells/base": "1", "cells/lora/rate-1e-06-seed-0-12345678": "2"}),
    "reused.json": Reused(run="r", cells=["cells/base"]),
    "judge_usage.json": Used(judges={"openai:a": Usage(3, 30, 3, 1e-6), "openai:b": Usage(1)}),
    "forgetting/lora.json": Measured(kl_nats=1e-6, tokens=9),
    "pace.json": Pace(recipes={"lora": Timed(recipe="r", cost=Cost(1e-6, 2.0, 0.5))}),
}


def told(record: Record) -> dict[str, Any]:
    """What its file says."""
    values: dict[str, Any] = json.loads(record.model_dump_json(by_alias=True))
    return values


@pytest.fixture(params=RECORDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a record was written."""
    path: Path = tmp_path / request.param
    RECORDS[request.param].write(path)
    return path


def record_at(path: Path, folder: Path) -> Record:
    return RECORDS[str(path.relative_to(folder))]


def test_a_record_is_read_back(path: Path, tmp_path: Path) -> None:
    record = record_at(path, tmp_path)
    assert repr(type(record).read(path)) == repr(record)  # a NaN is not equal to itself
    assert yaml.safe_load(path.read_text())["schema"] == 1  # JSON is YAML, too
    before = path.read_bytes()
    type(record).read(path).write(path)
    assert path.read_bytes() == before and {file.name for file in path.parent.iterdir()} == {
        path.name,
        f".{path.name}.sha256",
    }
    with pytest.raises(ValidationError, match="frozen"):
        record.schema_number = 0


def test_a_field_that_is_not_known_is_an_error(path: Path, tmp_path: Path) -> None:
    record = record_at(path, tmp_path)
    listing(path).unlink()
    path.write_text(json.dumps(told(record) | {"later": 1}))
    with pytest.raises(UserError, match=f"^{path}: unknown key 'later'; "):
        type(record).read(path)


def test_a_later_schema_is_an_error(path: Path, tmp_path: Path) -> None:
    record = record_at(path, tmp_path)
    listing(path).unlink()
    path.write_text(json.dumps(told(record) | {"schema": 2}))
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(path))}: key 'schema': input should be less than or equal to 1 \(found 2\)$"
    ):
        type(record).read(path)


@pytest.mark.parametrize(
    ("name", "place", "complaint"),
    [
        ("run.json", ("identity",), "unknown key 'identity.later'"),
        ("parts/run.json", ("identity", "parts", "a"), "unknown key 'identity.parts.a.later'"),
        ("subspace/sails.json", ("cost",), "unknown key 'cost.later'"),
        ("choices.json", ("choices", "lora"), "key 'choices.lora.later': unexpected keyword argument"),
        ("pace.json", ("recipes", "lora"), "unknown key 'recipes.lora.later'"),
        ("pace.json", ("recipes", "lora", "cost"), "key 'recipes.lora.cost.later': unexpected keyword argument"),
    ],
)
def test_a_field_within_that_is_not_known_is_an_error(
    name: str, place: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    values = told(RECORDS[name])
    inner = values
    for key in place:
        inner = inner[key]
    inner["later"] = 1
    (tmp_path / "file.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"^{tmp_path / 'file.json'}: {complaint}"):
        type(RECORDS[name]).read(tmp_path / "file.json")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "no such file"),
        ("{", "not valid JSON"),
        ("run: r", "not valid JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"run": "r"}', "key 'cells': field required"),
        ('{"run": "r", "cells": [1]}', "key 'cells.0': input should be a valid string"),
    ],
)
def test_what_is_no_such_record_is_an_error(text: str | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "reused.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=f"^{path}: {complaint}"):
        Reused.read(path)


def test_scores_that_are_no_numbers_survive(tmp_path: Path) -> None:
    choices = Choices(choices={"lora": Choice("lora", 0.1, ((0.1, 0.5), (0.2, nan), (0.3, -inf)))})
    choices.write(tmp_path / "choices.json")
    text = (tmp_path / "choices.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # and the file is JSON for whoever is strict
    assert repr(Choices.read(tmp_path / "choices.json")) == repr(choices)  # a NaN is not equal to itself


def test_files_of_0_1_0_are_read(tmp_path: Path) -> None:
    """They have no schema, and in three of them what is below a key now stood at the top."""

    def read(kind: type[Record], values: dict[str, Any]) -> Record:
        (tmp_path / "file.json").write_text(json.dumps(values))
        return kind.read(tmp_path / "file.json")

    assert read(Seal, {"cells/base": "1"}) == Seal(hashes={"cells/base": "1"})
    price = {"per_token": 1.0, "before": 2.0, "saes": 0.5}
    timed = {"lora": Timed(recipe="r", cost=Cost(1.0, 2.0, 0.5))}
    assert read(Pace, {"lora": {"recipe": "r", "price": price}}) == Pace(recipes=timed)
    report = {"cost": {"tokens": 1}, "saes": ["a"], "saw": [], "0": {"kept": 3}}
    new = SubspaceReport(cost=PreparationCost(tokens=1), saes=["a"], found={"0": {"kept": 3}})
    assert read(SubspaceReport, report) == new
    assert read(Stopped, {"step": 2, "alignment_score": {"2": None}}) == Stopped(step=2, alignment_score={2: None})
    assert read(Description, DESCRIPTION | {"identity": {"seeds": 2, "limit": None}}) == Description(
        **DESCRIPTION, identity=Identity(seeds=2)
    )


def test_usage_of_0_1_0_is_read_and_added_to(tmp_path: Path) -> None:
    """Its judges stood at the top."""
    path = tmp_path / "judge_usage.json"
    path.write_text('{"a": {"requests": 3, "prompt_tokens": 30, "completion_tokens": 3, "cost_usd": null}}')
    assert read_usage(path) == {"a": Usage(3, 30, 3)}
    add_usage(path, "a", Usage(1))
    assert read_usage(path) == Used.read(path).judges == {"a": Usage(4, 30, 3)}


def test_every_field_of_a_record_is_described() -> None:
    kinds: list[type[Frozen]] = [*{type(record) for record in RECORDS.values()}, Identity, PreparationCost, Timed]
    silent = [
        f"{kind.__name__}.{name}" for kind in kinds for name, of in kind.model_fields.items() if not of.description
    ]
    assert not silent and set(Record.__subclasses__()) <= set(kinds)
