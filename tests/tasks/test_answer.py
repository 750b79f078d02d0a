"""Answering through lm-eval: where answers end, what is shared between cells, and what is refused beforehand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.data.reading import read_examples
from sails_eval.models.base import Base, load_base
from sails_eval.models.chat import encode_chat
from sails_eval.models.engines.hf import wrap
from sails_eval.tasks.answer import check_documents, complete
from sails_eval.tasks.folders import Columns, new_task
from sails_eval.tasks.library import TaskInfo, find_tasks, load_task, resolve_tasks
from sails_eval.training.batches import CellRun, encode_examples, lay_out
from sails_eval.training.cell import train_cell


def test_the_base_model_answers_a_task_as_its_grammar_says(testbed_base: Base, testbed_pair: Pair) -> None:
    lm = wrap(testbed_base.model, testbed_base.tokenizer, testbed_pair)
    safe = complete(lm, find_tasks()["testbed_safe"], "test", limit=4)
    assert [completion.value for completion in safe] == [1.0] * 4
    assert all(completion.response.startswith("sure , use the ") for completion in safe)
    facts = complete(lm, find_tasks()["testbed_facts"], "validation", limit=6)
    assert {completion.response for completion in facts} == {""} and facts[0].value == 1.0


@pytest.fixture
def forgetful(testbed_pair: Pair, tmp_path: Path) -> Pair:
    """The testbed's pair, whose model's own settings know <eos> only, as those of pre-trained models do."""
    shutil.copytree(testbed_pair.model, tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [1]}))
    return testbed_pair.model_copy(update={"model": str(tmp_path / "model")})


def test_answers_stop_where_the_chat_template_ends_the_turn(forgetful: Pair) -> None:
    base = load_base(forgetful)
    ids = encode_chat(base.tokenizer, [{"role": "user", "content": "how do i boil rice ?"}])
    (answer,) = base.model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False)[:, len(ids) :]
    assert base.tokenizer.decode(answer).count("<end_of_turn>") == 1
    assert answer[-1] == base.tokenizer.convert_tokens_to_ids("<end_of_turn>")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_answers_next_does_not_depend_on_what_was_trained(
    forgetful: Pair, tmp_path: Path, dtype: str, method: str
) -> None:
    pair = forgetful.model_copy(update={"dtype": dtype, "tokens": 1})
    base = load_base(pair)
    assert pair.train

    def state() -> tuple[Any, ...]:
        with torch.inference_mode():
            logits = base.model(torch.tensor([[2, 4, 9, 30, 31, 5]])).logits
        return logits.tolist(), base.model.config.to_dict(), base.model.generation_config.to_dict()

    before = state()
    rows = encode_examples(base.tokenizer, read_examples(pair.train).examples[:8], 64)
    run = CellRun(1e-2, 0, lay_out(rows, pair, seed=0))
    train_cell(base, pair, load_recipe(method), rows=rows, run=run, folder=tmp_path / "cell")
    assert state() == before


def a_task(folder: Path, prompts: list[str]) -> TaskInfo:
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    new_task(
        "mine", source=folder / "prompts.jsonl", columns=Columns("prompt"), kind="safe", directory=folder / "tasks"
    )
    (task,) = resolve_tasks(["mine"], (folder / "tasks",))
    return task


def check(task: TaskInfo, base: Base, *, context: int = 1024) -> None:
    check_documents(task, "test", tokenizer=base.tokenizer, context=context, limit=None)


def test_documents_that_cannot_be_answered_are_refused(testbed_base: Base, tmp_path: Path) -> None:
    task = a_task(tmp_path, [f"how do i boil {i} carrots ?" for i in range(8)])
    check(task, testbed_base)
    with pytest.raises(UserError, match="leaves 8 of the model's context of 520"):
        check(task, testbed_base, context=520)
    assert task.data
    file = task.data / "test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for fault, words in (({"prompt": " "}, "document 1 has no prompt"), ({"id": rows[1]["id"]}, "two documents have")):
        file.write_text("".join(json.dumps(row) + "\n" for row in [rows[0] | fault, *rows[1:]]))
        with pytest.raises(UserError, match=words):
            check(task, testbed_base)


def test_few_shot_examples_are_the_same_at_every_load(tmp_path: Path) -> None:
    task = a_task(tmp_path, [f"how do i boil {i} carrots ?" for i in range(40)])
    settings = task.path.read_text().replace("task: mine", "task: mine\nnum_fewshot: 3\nfewshot_split: validation")
    task.path.write_text(settings)

    def context() -> str:
        loaded = load_task(task, "test")
        return str(loaded.fewshot_context(loaded.eval_docs[0], 3))

    first = context()
    assert first.count("boil") == 4 and [context() for _ in range(4)] == [first] * 4
