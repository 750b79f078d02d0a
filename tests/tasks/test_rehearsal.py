"""Tasks whose answers could not be had, judged or scored are refused before a model is asked."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sails_eval.core.errors import UserError
from sails_eval.core.paths import bundled
from sails_eval.models.base import Base
from sails_eval.tasks.answer import check_documents
from sails_eval.tasks.library import resolve_tasks

RIGHT = {"kind": "capability", "correct": "exact_match"}
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "metric_list": [EXACT | {"metric": "acc"}],
    "metadata": {"kind": "capability", "correct": "acc"},
}
GENERATE = {"until": [], "max_gen_toks": 8}


def check(folder: Path, base: Base, answer: Any = 0, **settings: Any) -> None:
    """Check the documents of a task of lm-eval's own scoring."""
    (folder / "data").mkdir()
    for name in ("validation", "test"):
        row = {"id": name, "prompt": "boil it ?", "target": "a", "choices": ["a", "b"], "answer": answer}
        (folder / "data" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "utils.py").write_bytes((bundled("tasks") / "testbed" / "utils.py").read_bytes())
    shared = (bundled("tasks") / "testbed" / "_generate.yaml").read_text()
    (folder / "_generate.yaml").write_text(shared.replace("process_results: !function utils.score\n", ""))
    given = {"include": "_generate.yaml", "task": "mine", "dataset_kwargs": {"data_folder": "data"}}
    exact = {"metric_list": [EXACT], "metadata": RIGHT}
    (folder / "mine.yaml").write_text(yaml.safe_dump(given | exact | {"generation_kwargs": GENERATE} | settings))
    (task,) = resolve_tasks(["mine"], (folder,))
    check_documents(task, "test", tokenizer=base.tokenizer, context=1024, limit=None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        CHOICE,
        {"generation_kwargs": GENERATE | {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1}},
        {"filter_list": [{"name": "x", "filter": [{"function": "regex"}, {"function": "take_first"}]}], "repeats": 2},
    ],
)
def test_what_can_be_scored_passes(tmp_path: Path, testbed_base: Base, settings: dict[str, Any]) -> None:
    check(tmp_path, testbed_base, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"unsafe_code": True}, "key 'unsafe_code'"),
        ({"doc_to_image": "prompt"}, "without images"),
        (CHOICE | {"metadata": {"kind": "harmful"}}, "a harmful task needs generate_until"),
        ({"validation_split": "test"}, "validation_split and test_split are both 'test'"),
        ({"metric_list": [EXACT | {"aggregation": "none"}]}, "'exact_match' has no aggregation"),
        ({"generation_kwargs": GENERATE | {"max_tokns": 8}}, r"'generation_kwargs.max_tokns': nothing that engine hf"),
        ({"generation_kwargs": GENERATE | {"max_length": 8}}, r"'generation_kwargs.max_length': nothing"),
        ({"generation_kwargs": {"until": [], "max_new_tokens": 2000}}, "leaves -976 of the model's context"),
        ({"generation_kwargs": GENERATE | {"until": [""]}}, r"'generation_kwargs.until.0'.*at least 1 character"),
        ({"generation_kwargs": GENERATE | {"do_sample": "false"}}, "do_sample': input should be a valid boolean"),
        (
            {"generation_kwargs": GENERATE | {"return_dict_in_generate": True}},
            "return_dict_in_generate': input should be",
        ),
        ({"generation_kwargs": GENERATE | {"do_sample": True}}, "do_sample needs a temperature above 0"),
        ({"generation_kwargs": GENERATE | {"temperature": -1}}, "temperature'.*greater than or equal to 0"),
        ({"generation_kwargs": GENERATE | {"num_return_sequences": 2}}, "num_return_sequences'.*should be 1"),
        ({"repeats": 0}, "key 'repeats'"),
        ({"doc_to_text": "question"}, "doc_to_text 'question' names no column"),
        ({"doc_to_target": "solution"}, "document 'test': doc_to_target 'solution' names no column"),
        ({"filter_list": []}, "document 'test' cannot be scored"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "regex", "regex_pattern": "("}]}]}, "unterminated"),
        ({"metadata": {"kind": "capability", "correct": "acc"}}, "'acc' is to say .*its scores are exact_match"),
        (CHOICE | {"metric_list": [EXACT | {"metric": "f1"}], "metadata": {"kind": "capability"}}, r"are f1 \(0"),
    ],
)
def test_what_could_not_be_had_or_scored_is_told(
    tmp_path: Path, testbed_base: Base, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check(tmp_path, testbed_base, **settings)


@pytest.mark.parametrize("answer", [-1, "zebra", "0"])
def test_a_right_answer_that_is_none_of_the_choices_is_told(tmp_path: Path, testbed_base: Base, answer: Any) -> None:
    with pytest.raises(UserError, match=f"document 'test': its right answer, {answer!r}, is none of its choices"):
        check(tmp_path, testbed_base, answer, **CHOICE)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_without_documents_is_told(tmp_path: Path, testbed_base: Base, split: str) -> None:
    check(tmp_path, testbed_base)
    (tmp_path / "data" / f"{split}.jsonl").write_text("\n")
    (task,) = resolve_tasks(["mine"], (tmp_path,))
    with pytest.raises(UserError, match=rf"{split}.jsonl: no documents"):
        check_documents(task, "test", tokenizer=testbed_base.tokenizer, context=1024, limit=None)
