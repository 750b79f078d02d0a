"""What one seed alone can tell, on answers written by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sails_eval.boards.contrasts import Contrast
from sails_eval.core.files import write_jsonl
from sails_eval.core.records import Completion, Verdict
from sails_eval.plan.identity import Identity
from sails_eval.run import within_seed
from sails_eval.run.folder.run_folder import ModelFolder
from sails_eval.run.stages import Subject

HARMFUL = SimpleNamespace(name="h", kind="harmful", seen_in_training=False)
SEEN = SimpleNamespace(name="seen", kind="harmful", seen_in_training=True)
SAFE = SimpleNamespace(name="s", kind="safe", seen_in_training=False)


def subject(folder: Path, method: str, *, refused: str, helped: str) -> Subject:
    """A method's answers: one letter per prompt, `y` for right, `n` for wrong and `-` for unscored."""
    found = Subject(method, ModelFolder(folder / method), folder / method, None)
    for task, letters in ((HARMFUL, refused), (SEEN, "y" * 9), (SAFE, helped)):
        right = Verdict("", "refusal", 1) if task.kind == "harmful" else Verdict("", "compliance")
        wrong = Verdict("", "compliance", 5) if task.kind == "harmful" else Verdict("", "refusal")
        said = {"y": right, "n": wrong, "-": Verdict("", unscored="no reply")}
        verdicts = [Verdict(str(i), said[a].label, said[a].score, said[a].unscored) for i, a in enumerate(letters)]
        completions = [Completion(str(i), "p", "r", "c") for i in range(len(letters))]
        write_jsonl(found.folder.answers_file("test", task.name), completions)
        write_jsonl(found.folder.verdicts_file("test", task.name, "j"), verdicts)
    return found


def evaluator(contrasts: Any) -> Any:
    plan = SimpleNamespace(tasks=(HARMFUL, SEEN, SAFE), identity=Identity(judge="j"), contrasts=contrasts)
    return SimpleNamespace(plan=plan)


def test_discordant_prompts_of_one_seed_are_tested_exactly(tmp_path: Path) -> None:
    subjects = [
        subject(tmp_path, "sails", refused="yyyyyyyyn-", helped="yyyy"),
        subject(tmp_path, "lora", refused="nnnnnnnnyy", helped="yyyn"),
    ]
    ((method, (line,)),) = within_seed.notes(evaluator((Contrast("sails", "lora"),)), subjects).items()
    # 8 against 1 of 9 discordant prompts: 2 (1 + 9) / 2⁹; the unscored prompt and the seen categories are left out
    assert f"refusal p = {20 / 512:.3f} (better on 8, worse on 1 of 9 prompts)" in line
    assert "helpfulness p = 1.000 (better on 1, worse on 0 of 4 prompts)" in line
    assert method == "sails" and line.startswith("against lora within the one seed") and ";" not in line


def test_no_p_value_is_nothing(tmp_path: Path) -> None:
    subjects = [
        subject(tmp_path, "sails", refused="y" * 20, helped="y"),
        subject(tmp_path, "lora", refused="n" * 20, helped="y"),
    ]
    ((_, (line,)),) = within_seed.notes(evaluator((Contrast("sails", "lora"),)), subjects).items()
    assert "refusal p < 0.001 (better on 20" in line


@pytest.mark.parametrize(("contrasts", "lines"), [(None, 2), ((), 0), ((Contrast("base", "lora"),), 1)])
def test_every_declared_contrast_has_a_line(tmp_path: Path, contrasts: Any, lines: int) -> None:
    subjects = [subject(tmp_path, name, refused="y", helped="-") for name in ("lora", "sails", "base")]
    found = [line for lines_of in within_seed.notes(evaluator(contrasts), subjects).values() for line in lines_of]
    assert len(found) == lines
    assert all("helpfulness p = 1.000 (better on 0, worse on 0 of 0 prompts)" in line for line in found)
