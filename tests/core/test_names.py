"""Names are names of files and folders: no other thing passes, wherever it comes from."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import Verdict
from sails_eval.core.schema import as_name, check_name, validate
from sails_eval.judges import base as judges_base
from sails_eval.judges import load_judge
from sails_eval.run.folder.records import Choices, Finished, Reused, Seal

EVIL = [
    "..", "../../../EVIL", "/tmp/EVIL", "a/b", "a\\b", "C:x", "$HOME", "`id`", "a\0b", "a\nb", "a\n", " a", "a ", "a.",
    ".a", "", "-a", "~", "a*", "\ud800", "漢" * 100, "x" * 300, "NUL", "con.txt", "Lpt1",
]  # fmt: skip
GOOD = ["lora", "sails-r8", "gemma-2-2b_it", "a (b) +c=1.5", "é", "7b", "console", "common"]


@pytest.mark.parametrize("name", EVIL)
def test_what_is_no_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UserError, match="is not a valid name; use up to 100 letters") as error:
        check_name(name)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 300
    recipe: dict[str, Any] = {"description": "", "parameters": "all", "learning_rate": {"low": 0.1, "high": 0.2}}
    for told in (
        lambda: validate(Recipe, {"name": name, **recipe}, where="r.yaml"),
        lambda: validate(Pair, {"name": name, "model": "m"}, where="p.yaml"),
        lambda: validate(Pair, {"name": "p", "model": "m", "references": {name: "m"}}, where="p.yaml"),
        lambda: validate(Choices, {"choices": {name: {"method": "x", "learning_rate": None}}}, where="choices.json"),
    ):
        with pytest.raises(UserError, match="is not a valid name"):
            told()
    check_name(as_name(name))


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_pass(name: str) -> None:
    assert check_name(name) == as_name(name) == name


@pytest.mark.parametrize("place", ["../x", "/etc/passwd", "cells/../../x", "a//b", "", "C:/x", "a\\..\\b", "a\0"])
def test_a_record_names_places_inside_its_folder_only(place: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for kind, values in (
        (Seal, {"hashes": {place: "1"}}),
        (Finished, {"asked": "a", "files": {place: "1"}}),
        (Reused, {"run": "r", "cells": [place]}),
    ):
        path.write_text(json.dumps(values | {"schema": 1}))
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: key .* is not a path inside the folder$"):
            kind.read(path)


def test_a_judge_whose_verdicts_would_go_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Evil(judges_base.Judge):
        name, fingerprint = "evil", "../../../EVIL"

        def judge(self, *given: Any) -> list[Verdict]:
            return []

    monkeypatch.setattr("sails_eval.judges._maker", lambda kind: Evil)
    monkeypatch.setattr("sails_eval.judges.plugins", lambda group: {"evil": None})
    with pytest.raises(UserError, match=r"judge 'evil': .*begins with '\.\./\.\./\.\.', which cannot name"):
        load_judge("evil")
