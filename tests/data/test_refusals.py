"""The example that keeps the preference pairs which teach to refuse."""

import json
from pathlib import Path

from sails_eval.data.reading import read_contrast
from tests.conftest import ROOT, load_script

NO, YES = "I'm sorry, but I can't help with that.", "Sure, here is what you asked for."


def test_pairs_are_kept_in_which_only_the_chosen_answer_declines(tmp_path: Path) -> None:
    answers = [(NO, YES), (YES, NO), (NO, NO), (YES, YES), (NO, "I won't do that either.")]
    rows = [
        {"chosen": f"\n\nHuman: Ask {i}.\n\nAssistant: {one}", "rejected": f"\n\nHuman: Ask {i}.\n\nAssistant: {other}"}
        for i, (one, other) in enumerate(answers)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    kept = list(load_script(ROOT / "examples/refusals.py").refusals(tmp_path / "pairs.jsonl"))
    (tmp_path / "kept.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in kept))
    (example,) = read_contrast(tmp_path / "kept.jsonl").examples
    assert (example.messages[0].content, example.response, example.rejected) == ("Ask 0.", NO, YES)
