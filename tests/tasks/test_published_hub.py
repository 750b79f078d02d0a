"""Published prompt sets as the hub has them: small files of ours in a cache, under each card's names."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from sails_eval.core.errors import UserError
from sails_eval.data import hub
from sails_eval.tasks.library import find_tasks
from sails_eval.tasks.published import DATA, TASK_DATA, Card, read_documents

COMMIT = "c0ffee" + "0" * 34

CARDS = {name: task.card for name, task in find_tasks().items() if task.card and not task.card.csv}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no local copies."""
    monkeypatch.delenv(DATA, raising=False)
    monkeypatch.setenv(TASK_DATA, "")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    hub.fetch.cache_clear()
    return tmp_path


def lay(cache: Path, card: Card, rows: list[dict[str, Any]], *, mark: str = ",") -> None:
    """Lay a set into the cache as a download would, its rows in a file with this mark between the columns."""
    repo = cache / f"datasets--{card.hub.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    commit = card.revision if len(card.revision) == len(COMMIT) else COMMIT
    (repo / "refs" / card.revision).write_text(commit)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=mark)
    writer.writeheader()
    writer.writerows(rows)
    file = f"rows.{'tsv' if mark == chr(9) else 'csv'}"
    (snapshot / file).write_text(text.getvalue(), "utf-8")
    config = {"config_name": card.config or "default", "data_files": [{"split": card.split, "path": file}]}
    (snapshot / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': [config]})}---\n")


def rows_of(card: Card, number: int = 6) -> list[dict[str, Any]]:
    """Rows with the columns that the card names: those of this task, and one of another."""
    category = {card.category[-1]: "a kind, with a comma"} if card.category else {}
    wanted = [{card.prompt[0]: f'Name abstract thing {n}, "please"', **category, **card.where} for n in range(number)]
    other = {**wanted[0], card.prompt[0]: "Name another", **dict.fromkeys(card.where, "of another task")}
    return [*wanted, other] if card.where and card.where_on_hub else wanted


@pytest.mark.parametrize("name", sorted(CARDS))
def test_every_set_is_read_by_the_names_of_its_card(name: str, cache: Path) -> None:
    card = CARDS[name]
    lay(cache, card, rows_of(card), mark="\t" if name == "wildjailbreak" else ",")
    documents = read_documents(card)
    assert [document["prompt"] for document in documents] == [f'Name abstract thing {n}, "please"' for n in range(6)]
    assert {document["category"] for document in documents} == {"a kind, with a comma" if card.category else name}


def test_a_column_that_is_not_there(cache: Path) -> None:
    card = CARDS["or_bench_hard"]
    lay(cache, card, [{"question": "Name a thing", "category": "kind"}] * 6)
    with pytest.raises(UserError, match=r"'or_bench_hard': .* has no column 'prompt'; found 'question', 'category'"):
        read_documents(card)


def test_a_category_column_that_is_not_there(cache: Path) -> None:
    card = CARDS["or_bench_hard"]
    lay(cache, card, [{"prompt": "Name a thing"}] * 6)
    with pytest.raises(UserError, match=r"'or_bench_hard': .* has no category column 'category'; found 'prompt'"):
        read_documents(card)


def test_no_rows_are_left(cache: Path) -> None:
    card = CARDS["xstest_safe"]
    lay(cache, card, [{**row, "label": "neither"} for row in rows_of(card)])
    with pytest.raises(UserError, match=r"'xstest_safe': .* has no rows whose 'label' is 'safe'; found neither"):
        read_documents(card)
