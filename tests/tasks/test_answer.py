"""Answering through lm-eval: where answers end, what is shared between cells, and what is refused beforehand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.data.reading import read_examples
from sails_eval.judges.answer_text import read_answer
from sails_eval.models.base import Base, load_base
from sails_eval.models.chat import encode_chat
from sails_eval.models.engines.hf import QuietHFLM, wrap
from sails_eval.plan.catalog.tasks import show
from sails_eval.tasks.answer import asked, check_documents, complete
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


def test_reasoning_that_the_chat_template_opens_belongs_to_the_answer(
    testbed_base: Base, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = testbed_base.tokenizer.chat_template + "{% if add_generation_prompt %}<think>\n{% endif %}"
    monkeypatch.setattr(testbed_base.tokenizer, "chat_template", opens)
    lm = wrap(testbed_base.model, testbed_base.tokenizer, testbed_pair)
    (answer,) = complete(lm, find_tasks()["testbed_safe"], "test", limit=1)
    assert answer.response.startswith("<think>\n") and read_answer(answer.response) is None


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


def by_hand(folder: Path, **settings: Any) -> TaskInfo:
    """A task of documents with a prompt and a target, some of them for examples."""
    task = a_task(folder, [f"how do i boil {i} carrots ?" for i in range(40)])
    assert task.data
    for file in task.data.glob("*.jsonl"):
        rows = [json.loads(line) | {"target": "in a pot ."} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = yaml.safe_load(task.path.read_text())
    generation = given.get("generation_kwargs", {}) | {"until": [], "max_gen_toks": 8}
    task.path.write_text(yaml.safe_dump(given | {"generation_kwargs": generation} | settings))
    return resolve_tasks(["mine"], (folder / "tasks",))[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"num_fewshot": 5, "fewshot_split": "validation"},
            "with 5 examples and max_gen_toks leaves .*lower num_fewshot",
        ),
        ({"gen_prefix": "sure , " * 40}, "max_gen_toks leaves"),
        ({"description": "be brief . " * 40}, "max_gen_toks leaves"),
    ],
)
def test_what_is_checked_is_what_is_asked(
    testbed_base: Base, testbed_pair: Pair, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    task = by_hand(tmp_path, **settings)
    asked_for: list[str] = []

    class Seen(QuietHFLM):
        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            asked_for.extend(request.args[0] for request in requests)
            return ["no ."] * len(requests)

    complete(Seen(pretrained=testbed_base.model, tokenizer=testbed_base.tokenizer), task, "test", limit=3)
    loaded = load_task(task, "test")
    prompts = [asked(loaded, doc, testbed_base.tokenizer)[0] for doc in list(loaded.eval_docs)[:3]]
    assert asked_for == prompts
    lengths = [len(testbed_base.tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    assert min(lengths) > 40
    check(task, testbed_base, context=max(lengths) + 12)
    with pytest.raises(UserError, match=f"document 'mine-.*{words}"):
        check(task, testbed_base, context=40)
    shown = show("mine", CompareConfig(pair="testbed", include_path=(tmp_path / "tasks",)))
    assert all(prompt in shown for prompt in prompts)


def test_the_longest_choice_needs_room_too(testbed_base: Base, tmp_path: Path) -> None:
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["boil it", "boil it " * 30], "doc_to_target": 0}
    metric = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
    kind = {"metadata": {"kind": "capability", "correct": "acc"}}
    task = by_hand(tmp_path, **choices, **metric, **kind, process_results=None)
    check(task, testbed_base, context=100)
    with pytest.raises(UserError, match="its longest choice leaves"):
        check(task, testbed_base, context=50)


def test_what_a_task_makes_no_prompt_of_is_named(testbed_base: Base, tmp_path: Path) -> None:
    task = by_hand(tmp_path, doc_to_text="{{prompt}}{% if '17' in prompt %}{{nothing}}{% endif %}")
    with pytest.raises(UserError, match=r"no prompt can be made from document .*17 .*: UndefinedError: 'nothing'"):
        check(task, testbed_base)


def test_a_task_whose_functions_fail_on_an_answer_is_named(
    testbed_base: Base, testbed_pair: Pair, tmp_path: Path
) -> None:
    task = by_hand(tmp_path)
    (task.path.parent / "fails.py").write_text(
        "def score(doc, answers):\n    return 1 / len(answers[0].split('on'))[9]\n"
    )
    lines = yaml.safe_dump(yaml.safe_load(task.path.read_text()) | {"process_results": "FUNCTION"})
    task.path.write_text(lines.replace("FUNCTION", "!function fails.score"))
    (task,) = resolve_tasks(["mine"], (tmp_path / "tasks",))
    lm = wrap(testbed_base.model, testbed_base.tokenizer, testbed_pair)
    with pytest.raises(UserError, match=r"mine\.yaml: scoring an answer failed \(TypeError: "):
        complete(lm, task, "test", limit=1)


def test_sampled_answers_are_the_same_every_time(testbed_base: Base, testbed_pair: Pair, tmp_path: Path) -> None:
    lm = wrap(testbed_base.model, testbed_base.tokenizer, testbed_pair)
    sampled = {"until": [], "max_gen_toks": 8, "do_sample": None, "temperature": 5.0}  # lm-eval samples then, too
    task = by_hand(tmp_path, generation_kwargs=sampled)
    first, second = (complete(lm, task, "test", limit=4) for _ in range(2))
    assert first == second and len({one.response for one in first}) > 1


def test_few_shot_examples_are_the_same_at_every_load(tmp_path: Path) -> None:
    task = a_task(tmp_path, [f"how do i boil {i} carrots ?" for i in range(40)])
    settings = task.path.read_text().replace("task: mine", "task: mine\nnum_fewshot: 3\nfewshot_split: validation")
    task.path.write_text(settings)

    def context() -> str:
        loaded = load_task(task, "test")
        return str(loaded.fewshot_context(loaded.eval_docs[0], 3))

    first = context()
    assert first.count("boil") == 4 and [context() for _ in range(4)] == [first] * 4
