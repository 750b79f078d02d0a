import csv
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sails_eval.cli import main
from sails_eval.core import paths
from sails_eval.core.errors import UserError
from sails_eval.tasks import library
from sails_eval.tasks.folders import Columns, check_task, new_task
from sails_eval.tasks.library import describe, find_tasks, has_docs, load_task, resolve_tasks
from sails_eval.tasks.published import TASK_DATA

BUNDLED = paths.bundled("tasks")
GENERATED = ("harmful_seen", "harmful_unseen", "harmful_wrapped", "lookalike", "safe")


def write_docs(folder: Path, split: str, docs: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))


@pytest.fixture
def testbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The testbed's task folder with two documents a split, as the only bundled one; work elsewhere."""
    root = tmp_path / "bundled"
    folder = root / "testbed"
    shutil.copytree(BUNDLED / "testbed", folder, ignore=shutil.ignore_patterns("data", "__pycache__"))
    for split in ("validation", "test"):
        for short in GENERATED:
            target = None if short.startswith("harmful") else "Mix, wait, bake."
            docs = [
                {
                    "id": f"{short}-{split}-{i}",
                    "prompt": f"{short} {split} {i}?",
                    "category": f"c{i}",
                    "target": target,
                }
                for i in range(2)
            ]
            write_docs(folder / "data" / short, split, docs)
        fact = {"category": "c", "choices": list("abcd"), "answer": 1}
        facts = [fact | {"id": f"facts-{split}-{i}", "prompt": f"fact {split} {i}?"} for i in range(2)]
        write_docs(folder / "data" / "facts", split, facts)
    monkeypatch.setattr(paths, "bundled", lambda name: root)
    monkeypatch.chdir(tmp_path)
    return folder


def evaluate(model: Path, tasks: dict[str, Any]) -> Any:
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(model), device="cpu", batch_size=4)
    return lm_evaluate(lm, {"tasks": tasks}, apply_chat_template=True, bootstrap_iters=0)


def test_the_bundled_testbed_has_every_kind_of_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # found from any directory
    tasks = [task for task in find_tasks().values() if task.name.startswith("testbed_")]
    assert {(task.name, task.kind, task.correct) for task in tasks} == {
        ("testbed_harmful_seen", "harmful", None),
        ("testbed_harmful_unseen", "harmful", None),
        ("testbed_harmful_wrapped", "harmful", None),
        ("testbed_lookalike", "safe", "exact"),
        ("testbed_safe", "safe", "exact"),
        ("testbed_facts", "capability", "acc"),
    }
    assert [task.name for task in tasks if task.seen_in_training] == ["testbed_harmful_seen"]
    assert sorted(task.name for task in resolve_tasks(["testbed", "testbed_safe"])) == sorted(t.name for t in tasks)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_lm_eval_evaluates_the_documents_of_the_split(testbed: Path, tiny_llama_dir: Path, split: Any) -> None:
    infos = resolve_tasks(["testbed"])
    results = evaluate(tiny_llama_dir, {info.name: load_task(info, split) for info in infos})
    for info in infos:
        short = info.name.removeprefix("testbed_")
        samples = results["samples"][info.name]
        assert [sample["doc"]["id"] for sample in samples] == [f"{short}-{split}-{i}" for i in range(2)]
        assert info.correct is None or info.correct in samples[0]["metrics"]
        context, settings = samples[0]["arguments"][0]
        prompt = f"<|user|>\n{samples[0]['doc']['prompt']}<|end|>\n<|assistant|>\n"
        assert context == prompt
        if info.kind != "capability":
            assert settings == {"until": ["<end_of_turn>"], "max_gen_toks": 32, "do_sample": False}
            assert f"{'exact' if info.correct else 'refusal'},none" in results["results"][info.name]


def test_answers_are_scored_one_by_one(testbed: Path) -> None:
    safe, harmful = (load_task(task, "test") for task in resolve_tasks(["testbed_safe", "testbed_harmful_seen"]))
    doc = safe.test_docs()[0]
    assert safe.process_results(doc, ["mix ,  WAIT , bake ."]) == {"exact": 1.0, "refusal": 0.0}
    assert safe.process_results(doc, ["Mix, wait, bake it."]) == {"exact": 0.0, "refusal": 0.0}
    assert safe.process_results(doc, ["I cannot help with that."]) == {"exact": 0.0, "refusal": 1.0}
    doc = harmful.test_docs()[0]
    assert harmful.process_results(doc, ["I cannot help with that."]) == {"refusal": 1.0}
    assert harmful.process_results(doc, ["Here is how to do it, step by step."]) == {"refusal": 0.0}


def test_describe_counts_a_local_copy_of_a_published_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes() -> tuple[int | None, int | None]:
        (row,) = describe(resolve_tasks(["advbench"]))
        return row.validation, row.test

    monkeypatch.delenv(TASK_DATA, raising=False)
    assert sizes() == (None, None)
    copy = tmp_path / "mine.csv"
    copy.write_text("goal,target\n" + "".join(f"Do thing {n}.,x\n" for n in range(23)))
    monkeypatch.setenv(TASK_DATA, f"advbench={copy}")
    assert sizes() == (4, 19)
    copy.write_text("other\n1\n")
    assert sizes() == (None, None)  # a faulty file is told where its prompts are needed


def test_describe_counts_documents(testbed: Path) -> None:
    write_docs(testbed / "data/safe", "test", [{"id": str(i), "prompt": str(i)} for i in range(3)])
    rows = {row.name: row for row in describe(find_tasks().values())}
    assert (rows["testbed_safe"].validation, rows["testbed_safe"].test) == (2, 3)
    assert rows["testbed_safe"].path.name == "testbed_safe.yaml"


def test_a_task_without_validation_split_can_only_be_tested(testbed: Path) -> None:
    generate = testbed / "_generate.yaml"
    generate.write_text(generate.read_text().replace("validation_split: validation\n", ""))
    (info,) = resolve_tasks(["testbed_safe"])
    assert has_docs(info, "test") and not has_docs(info, "validation")
    with pytest.raises(UserError, match="no validation documents"):
        load_task(info, "validation")
    assert load_task(info, "test").task_name == "testbed_safe"


def test_a_task_that_lm_eval_cannot_load_is_named(testbed: Path) -> None:
    (testbed / "data/safe/test.jsonl").write_text("{broken\n")
    (info,) = resolve_tasks(["testbed_safe"])
    with pytest.raises(UserError, match=r"testbed_safe.yaml: lm-eval cannot load it: .*test.jsonl:1: not valid JSON"):
        load_task(info, "test")


def test_a_missing_data_file_is_named(testbed: Path) -> None:
    (testbed / "data/safe/validation.jsonl").unlink()
    (info,) = resolve_tasks(["testbed_safe"])
    with pytest.raises(UserError, match=r"data/safe/validation.jsonl: no such file, but .*testbed_safe.yaml"):
        load_task(info, "test")


def write_task(path: Path, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"metadata": {"kind": "safe"}} | settings))


def test_the_same_name_in_two_folders_is_an_error_that_names_both(testbed: Path, tmp_path: Path) -> None:
    write_task(Path("tasks/mine/a.yaml"), task="mine", tag="both")
    extra = tmp_path / "extra"
    write_task(extra / "b.yaml", task="other", tag="both")
    assert [task.name for task in resolve_tasks(["both"], (extra, Path("tasks/mine")))] == ["mine", "other"]
    write_task(extra / "b.yaml", task="mine")
    with pytest.raises(UserError, match=r"'mine': tasks/mine/a.yaml and .*extra/b.yaml"):
        resolve_tasks(["mine"], (extra,))
    write_task(extra / "b.yaml", task="testbed")
    with pytest.raises(UserError, match=r"b.yaml: 'testbed' also names a group"):
        resolve_tasks(["testbed"], (extra,))


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("task: [a", "a.yaml: not valid YAML"),
        ("include: none.yaml\ntask: a", "a.yaml: not a valid task file: .*none.yaml"),
        ("include: a.yaml\ntask: a", "a.yaml: not a valid task file: Include cycle"),
        ("just text", "a.yaml: not a valid task file"),
        ("dataset_path: x", "a.yaml: no key 'task' or 'group'"),
        ("task: a", "a.yaml: no metadata.kind; write .*harmful"),
        ("task: a\nmetadata: {kind: evil}", "a.yaml: metadata.kind is 'evil'; write"),
        ("task: [b]", "a.yaml: key 'task' is not a name"),
        ("group: a\nclass: b", "a.yaml: key 'task' is not a name"),
        ("task: a\nmetric_list: [b]", r"a.yaml: key 'metric_list.0': .*found 'b'"),
        ("task: a\nmetric_list: 0", "a.yaml: key 'metric_list': .*list"),
        ("task: a\ndataset_kwargs: {data_folder: 3}", "a.yaml: key 'dataset_kwargs.data_folder': .*string"),
        ("task: a\ndataset_kwargs: words", "a.yaml: key 'dataset_kwargs': "),
        ("task: a\ngeneration_kwargs: {until: {x: y}}", "a.yaml: key 'generation_kwargs.until': "),
        ("task: a\ngeneration_kwargs: &b {until: *b}", "a.yaml:2: an alias .* refers to a value that contains it"),
        ("task: a\n" + BOMB, r"a.yaml:\d+: aliases .* multiply"),
        ("task: a\nx: " + "[" * 400 + "]" * 400, "a.yaml:2: nested too deeply; at most 50"),
        ("task: a\nx: 2001-99-99", "a.yaml:2: cannot read the value '2001-99-99'"),
        (f"task: a\nx: {'9' * 5000}", "a.yaml:2: cannot read the value"),
        ('task: a\nx: "\\0"', "a.yaml:2: a text holds NUL"),
        ("task: a\n3: x\n[1]: 2", "a.yaml:3: a key that is not a text"),
        ("group: a\ntask: [{group: b, task: [a]}]", "group 'a' contains itself"),
    ],
)
def test_a_broken_yaml_is_an_error_that_names_it_and_no_other_task_suffers(
    testbed: Path, text: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("tasks").mkdir()
    Path("tasks/a.yaml").write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        resolve_tasks(["a"])
    assert "\n" not in str(caught.value)
    assert [task.name for task in resolve_tasks(["testbed_safe"])] == ["testbed_safe"] == [*find_tasks()][-1:]
    assert main(["tasks", "list"]) == 0
    listed = capsys.readouterr().out
    assert "testbed_safe" in listed and ("contains itself" in complaint or re.search(rf"a: .*{complaint}", listed))


def test_tasks_list_survives_a_broken_data_file(testbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (testbed / "data/safe/test.jsonl").write_text("{")
    assert main(["tasks", "list", "--json"]) == 0
    rows = {row["task"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["testbed_facts"]["error"] == "" and "not valid JSON" in rows["testbed_safe"]["error"]


def test_groups_expand_and_unknown_names_are_answered_with_near_ones(
    testbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A small stand-in for lm-eval's own index, which takes seconds to build.
    from lm_eval import tasks as lm_eval_tasks

    own = tmp_path / "own"
    write_task(own / "arc.yaml", task="arc_easy", metadata={"version": 1}, output_type="multiple_choice", tag="arc")
    write_task(own / "tuned.yaml", group="tuned", task=["arc_easy"], num_fewshot=5)
    write_task(own / "outer.yaml", group="outer", task=["arc", {"group": "inner", "task": ["testbed_facts"]}])
    small = partial(lm_eval_tasks.TaskManager, include_path=str(own), include_defaults=False)
    monkeypatch.setattr(lm_eval_tasks, "TaskManager", small)
    library._lm_eval_library.cache_clear()
    try:
        arc, facts = resolve_tasks(["outer", "arc_easy"])
        assert (arc.name, arc.kind, arc.correct, arc.data) == ("arc_easy", "capability", "acc", None)
        assert facts.name == "testbed_facts"
        assert describe([arc])[0].test is None
        with pytest.raises(UserError, match=r"'tuned' changes settings of its tasks \(num_fewshot\)"):
            resolve_tasks(["tuned"])
        with pytest.raises(UserError, match="unknown task 'arc_eazy'; did you mean arc_easy"):
            resolve_tasks(["arc_eazy"])
        with pytest.raises(UserError, match="unknown task 'zzz'; known: testbed, testbed_facts"):
            resolve_tasks(["zzz"])
    finally:
        library._lm_eval_library.cache_clear()


def test_a_fingerprint_depends_on_all_that_determines_the_task_and_nothing_else(testbed: Path) -> None:
    def now(root: Path = testbed.parent) -> str:
        return library.task_info(library.scan([root]).tasks["testbed_safe"]).fingerprint

    seen = [now()]
    shutil.copytree(testbed.parent, "elsewhere")
    (testbed / "data/facts/test.jsonl").write_text("")
    assert now(Path("elsewhere")) == seen[0] == now() == now(testbed)
    for name in ("data/safe/test.jsonl", "data/safe/validation.jsonl", "utils.py"):
        (testbed / name).write_text((testbed / name).read_text() + "\n")
        seen.append(now())
    generate = testbed / "_testbed.yaml"  # two includes away from the task
    generate.write_text(generate.read_text().replace("32", "33"))
    assert len({*seen, now()}) == 5


PROMPTS = [f"Question number {i}?" for i in range(25)]


def prompts_file(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def documents(folder: Path) -> dict[str, list[dict[str, Any]]]:
    splits = ("validation", "test")
    return {s: [json.loads(line) for line in (folder / f"data/{s}.jsonl").read_text().splitlines()] for s in splits}


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_new_task_holds_back_a_fifth_whatever_the_order(testbed: Path, tmp_path: Path, suffix: str) -> None:
    rows = [{"q": prompt, "kind of": f"c{i % 3}", "a": f"answer {i}"} for i, prompt in enumerate(PROMPTS)]
    columns = Columns("q", target="a", category="kind of")
    source = prompts_file(tmp_path / f"p{suffix}", rows)
    folder = new_task("mine", source=source, columns=columns, kind="safe")
    assert folder == Path("tasks/mine")
    made = documents(folder)
    assert check_task(folder) == []
    assert [len(made["validation"]), len(made["test"])] == [5, 20]
    assert {doc["prompt"]: doc["category"] for docs in made.values() for doc in docs} == {
        row["q"]: row["kind of"] for row in rows
    }
    source = prompts_file(tmp_path / f"p{suffix}", rows[::-1] + rows[:2])  # another order, two prompts twice
    shutil.rmtree("tasks")
    again = new_task("mine", source=source, columns=columns, kind="safe", directory=tmp_path / "other")
    key = lambda doc: doc["id"]  # noqa: E731
    for split, docs in documents(again).items():
        assert sorted(docs, key=key) == sorted(made[split], key=key)
    assert yaml.safe_load((again / "mine.yaml").read_text())["metadata"]["duplicates_dropped"] == 2
    # A prompt's id is a fact about the prompt: it may be quoted where the prompt may not.
    ids = {doc["prompt"]: doc["id"] for docs in made.values() for doc in docs}
    assert ids[PROMPTS[0]] == "mine-0def594c"


def test_a_new_capability_task_is_scored_by_its_answers(testbed: Path, tmp_path: Path) -> None:
    source = prompts_file(tmp_path / "p.csv", [{"q": prompt, "a": "yes"} for prompt in PROMPTS])
    given = ["tasks", "new", "mine", "--from", str(source), "--prompt-column", "q", "--kind", "capability"]
    assert main(given) == 2 and main([*given, "--target-column", "a"]) == 0
    assert check_task(Path("tasks/mine")) == []
    (info,) = resolve_tasks(["mine"])
    assert (info.kind, info.correct) == ("capability", "exact")


def test_a_new_task_runs_and_says_only_the_end_of_turn_ends_an_answer(
    testbed: Path, tmp_path: Path, tiny_llama_dir: Path
) -> None:
    source = prompts_file(tmp_path / "p.csv", [{"goal": prompt} for prompt in PROMPTS[:5]])
    folder = new_task("mine", source=source, columns=Columns("goal"), kind="harmful")
    assert (folder / "utils.py").read_bytes() == (BUNDLED / "testbed/utils.py").read_bytes()
    (info,) = resolve_tasks(["mine"])
    assert (info.kind, info.correct, info.has_validation) == ("harmful", None, True)
    task = load_task(info, "validation")
    assert task.config.generation_kwargs == {"until": [], "max_gen_toks": 512, "do_sample": False}
    task.config.generation_kwargs["max_gen_toks"] = 4
    (sample,) = evaluate(tiny_llama_dir, {"mine": task})["samples"]["mine"]
    assert sample["metrics"] == ["refusal"]
    assert sample["doc"]["category"] == "mine"


@pytest.mark.parametrize(
    ("rows", "changes", "complaint"),
    [
        (
            [{"p": "a"}, {"p": "b"}],
            {"columns": Columns("q")},
            r"p.jsonl:1: no column 'q' \(found: p\); give --prompt",
        ),
        ([{"p": "a"}, {"p": " "}], {}, r"p.jsonl:2: column 'p' is empty"),
        ([{"p": "a"}, {"p": ["b"]}], {}, r"p.jsonl:2: column 'p': expected a text, found a list"),
        (
            [{"p": "a", "t": "x"}, {"p": "b", "t": None}],
            {"columns": Columns("p", target="t")},
            "2: column 't' is empty",
        ),
        ([{"p": "a"}, {"p": "a "}], {}, "at least two different prompts"),
        ([], {}, "at least two different prompts"),
        ([{"p": "a"}, {"p": "b"}], {"name": "no/slash"}, "can't name a task"),
        ([{"p": "a"}, {"p": "b"}], {"name": "testbed"}, "a task or group 'testbed' already"),
        ([{"p": "a"}, {"p": "b"}], {"name": "there"}, "tasks/there exists already"),
        ([{"p": "a"}, {"p": "b"}], {"kind": "harmfull"}, "unknown kind of task .*did you mean harmful"),
        ([{"p": "a"}, {"p": "b"}], {"kind": "capability"}, "name their column: --target-column COL"),
        (
            [{"p": "a"}],
            {"kind": "harmful", "columns": Columns("p", target="p")},
            "leave out --target-column",
        ),
    ],
)
def test_new_task_refuses_bad_input_and_leaves_nothing_behind(
    testbed: Path, tmp_path: Path, rows: list[dict[str, Any]], changes: dict[str, Any], complaint: str
) -> None:
    Path("tasks/there").mkdir(parents=True)
    source = prompts_file(tmp_path / "p.jsonl", rows)
    settings: dict[str, Any] = {
        "name": "mine",
        "source": source,
        "columns": Columns("p"),
        "kind": "safe",
    } | changes
    with pytest.raises(UserError, match=complaint):
        new_task(settings.pop("name"), **settings)
    assert [path.name for path in Path("tasks").rglob("*")] == ["there"]


def test_an_interrupted_new_task_leaves_nothing_behind(
    testbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    source = prompts_file(tmp_path / "p.jsonl", [{"p": prompt} for prompt in PROMPTS])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "copyfile", interrupt)
        new_task("mine", source=source, columns=Columns("p"), kind="safe")
    assert list(Path("tasks").iterdir()) == []


DOC = {"id": "a", "prompt": "p", "category": "c", "target": "t"}


@pytest.mark.parametrize(
    ("settings", "docs", "problem"),
    [
        ({"metadata": {}}, [], "mine.yaml: no metadata.kind; write"),
        (
            {"generation_kwargs": {"max_gen_toks": 9}},
            [],
            "mine.yaml: no generation_kwargs.until.*add `until: ..`",
        ),
        ({"generation_kwargs": {"until": []}}, [], "mine.yaml: no generation_kwargs.max_gen_toks.*add"),
        ({"validation_split": None}, [], "mine.yaml: no validation_split .*add"),
        ({"metadata": {"kind": "safe", "correct": "acc"}}, [], "metadata.correct: acc is not in metric_list"),
        (
            {"metadata": {"kind": "safe", "correct": "exact"}},
            [DOC | {"target": None}],
            "test.jsonl:2: no target",
        ),
        (
            {"task": "testbed_safe"},
            [],
            "the name 'testbed_safe' is taken by .*testbed/testbed_safe.yaml; choose",
        ),
        ({"dataset_kwargs": {"data_folder": "none"}}, [], "none/validation.jsonl: cannot be read"),
        ({"output_type": "telepathy"}, [], "mine.yaml: lm-eval cannot load it: .*telepathy"),
        ({}, ["{"], "test.jsonl:2: not valid JSON"),
        ({"doc_to_text": "{{prompt"}, [], "mine.yaml: key 'doc_to_text' is not valid Jinja"),
        (
            {},
            [DOC | {"category": ""}, DOC | {"id": "b", "prompt": "q", "category": 3}],
            r"2: no category.*\(1 more",
        ),
        ({}, [DOC | {"prompt": "a \ud83d"}], r"test.jsonl:2: a text holds half of a surrogate pair .U.D83D"),
        ({}, [DOC, DOC | {"prompt": "q"}], r"test.jsonl:3 \(as .*test.jsonl:2\): the same id twice"),
        (
            {},
            [DOC | {"prompt": "What is tested?"}],
            r"test.jsonl:2 \(as .*validation.jsonl:1\): the same prompt",
        ),
    ],
)
def test_check_task_says_what_is_wrong(
    testbed: Path, tmp_path: Path, settings: dict[str, Any], docs: list[Any], problem: str
) -> None:
    rows = [{"p": "What is tested?", "t": "x"}, {"p": "What is held back?", "t": "x"}]
    source = prompts_file(tmp_path / "p.jsonl", rows)
    columns = Columns("p", target="t")
    folder = new_task("mine", source=source, columns=columns, kind="safe", directory=tmp_path / "d")
    assert check_task(folder) == check_task(folder / "mine.yaml") == []
    config = yaml.safe_load((folder / "mine.yaml").read_text())
    (folder / "mine.yaml").write_text(yaml.safe_dump(config | settings))
    with (folder / "data/test.jsonl").open("a") as file:
        file.writelines((doc if isinstance(doc, str) else json.dumps(doc)) + "\n" for doc in docs)
    problems = check_task(folder)
    assert len(problems) == (2 if "data_folder" in str(settings) else 1), problems
    assert re.search(problem, problems[0])


EVIL = "from pathlib import Path\nPath('was-run').touch()\ndef load(**_):\n    return {}\nscore = load\n"


def test_tasks_check_runs_no_code_but_ours_and_others_are_warned_of(
    testbed: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    source = prompts_file(Path("p.jsonl"), [{"p": prompt} for prompt in PROMPTS])
    folder = new_task("mine", source=source, columns=Columns("p"), kind="safe")
    assert resolve_tasks(["mine"])[0].code == ()
    (folder / "utils.py").write_text(EVIL)
    assert main(["tasks", "check", "mine"]) == main(["tasks", "check", str(folder)]) == 0
    assert main(["tasks", "check", "minne"]) == 2 and "did you mean mine?" in capsys.readouterr().err
    for text, fault in [(f"{EVIL}def (", "not valid Python"), ("load = 1\n", "has no 'score'")]:
        (folder / "utils.py").write_text(text)
        (problem,) = check_task(folder)
        assert fault in problem and str(folder / "mine.yaml") in problem
    (folder / "utils.py").write_text(EVIL)
    config = yaml.safe_load((folder / "mine.yaml").read_text())
    jinja = {"doc_to_text": "{{prompt}}", "doc_to_target": "{{target.__class__}}", "process_docs": "no.such"}
    text = yaml.safe_dump(config | jinja).replace("process_docs: no", "process_docs: !function no")
    (folder / "mine.yaml").write_text(text)
    assert "!function no.such: no such file" in check_task(folder)[0]
    (task,) = resolve_tasks(["mine"])
    assert task.code == (str((folder / "utils.py").resolve()), "no.such", "the Jinja of 'doc_to_target'")
    library.warn_of_code([task, task])
    assert caplog.text.count("task 'mine' runs code of its own") == 1 and "--trust-tasks" in caplog.text
    assert not Path("was-run").exists()


@pytest.mark.parametrize(
    ("added", "code"),
    [
        ({"metric_list": [{"metric": "./evil.py"}], "process_results": None}, "metric './evil.py' of the library"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}], "process_results": None}, "metric 'acc' of the lib"),
        ({"<<": {"include": "_other.yaml"}}, "evil.py"),
        ({"<<": [{"include": ["_other.yaml"]}]}, "evil.py"),
        ({"include": "_link.yaml"}, "evil.py"),
    ],
)
def test_no_way_to_code_is_overlooked(testbed: Path, tmp_path: Path, added: dict[str, Any], code: str) -> None:
    source = prompts_file(Path("p.jsonl"), [{"p": prompt} for prompt in PROMPTS])
    folder = new_task("mine", source=source, columns=Columns("p"), kind="safe")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    for place in (folder, elsewhere):
        (place / "evil.py").write_text(EVIL)
        (place / "_other.yaml").write_text("process_docs: !function evil.load\n")
    (elsewhere / "_includes.yaml").write_text("include: _other.yaml\n")
    (folder / "_link.yaml").symlink_to(elsewhere / "_includes.yaml")
    file = folder / "mine.yaml"
    text = yaml.safe_dump(yaml.safe_load(file.read_text()) | added)
    file.write_text(text.replace("'<<'", "<<").replace("metric: ./evil", f"metric: {folder}/evil"))
    check_task(folder)
    (task,) = resolve_tasks(["mine"])
    assert any(code.replace("./", f"{folder}/") in one for one in task.code), task.code
    assert not Path("was-run").exists()


@pytest.mark.parametrize("command", ["list", "show mine", "check mine"])
def test_a_folder_of_tasks_that_is_not_there_is_told(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", *command.split(), "--include-path", "nope"]) == 2
    assert "--include-path nope: no such folder" in capsys.readouterr().err


def test_check_task_of_nothing(testbed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no YAML file with a key 'task'" in check_task(tmp_path / "empty")[0]
    with pytest.raises(UserError, match="no such file"):
        check_task(tmp_path / "none")
    assert check_task(testbed) == []


def test_a_misspelt_task_takes_no_index_of_lm_evals_tasks_but_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def index() -> library.Library:
        made.append(1)
        return library.Library(groups={"arc_easy": []})

    monkeypatch.setattr(library, "_lm_eval_library", index)
    for _ in range(3):
        with pytest.raises(UserError, match="unknown task 'testbed_save'; did you mean testbed_safe"):
            resolve_tasks(["testbed_save"])
    with pytest.raises(UserError, match="unknown task 'arc_esay'; did you mean arc_easy"):
        resolve_tasks(["arc_esay"])
    assert made == [1]
