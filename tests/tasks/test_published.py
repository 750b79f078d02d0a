"""Published prompt sets: local copies, the hub's cache, groups, `tasks show`, and what is refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sails_eval.cli import main
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.data.overlap import check_overlaps, find_overlaps
from sails_eval.plan import resolve
from sails_eval.plan.prepare import prepare
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.published import copy_completions
from sails_eval.tasks.library import find_tasks, load_task, resolve_tasks
from sails_eval.tasks.published import DATA, TASK_DATA, read_documents, use_local
from sails_eval.tasks.sharing import check_redistribution, check_sending

SHARED = Path(os.environ.get("SAILS_EVAL_REAL_DATA", "nowhere"))
"""A folder with the original files, which are not shipped: `prompts`, and `preference` with HH-RLHF."""

NAMES = set(
    """hex_phi harmbench_standard harmbench_contextual harmbench_copyright advbench strongreject jbb_harmful jbb_benign
    xstest_safe xstest_unsafe or_bench_hard or_bench_toxic sorry_bench wildguard_test wildjailbreak do_not_answer
    malicious_instruct hh_rlhf_test""".split()
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(DATA, raising=False)
    monkeypatch.setenv(TASK_DATA, "")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _xstest(folder: Path, label: str = "safe", column: str = "type") -> Path:
    file = folder / "xstest_prompts.csv"
    rows = [f"How do I stop process {n}?,kind {n % 2},{label}" for n in range(10)]
    file.write_text("\n".join([f"prompt,{column},label", *rows, "Name a forbidden act.,kind 0,unsafe"]), "utf-8")
    return file


def test_every_set_is_there_with_a_card_and_room_to_answer() -> None:
    tasks = find_tasks()
    assert {name for name, task in tasks.items() if task.card} == NAMES
    for name in NAMES:
        assert tasks[name].card.name == name  # type: ignore[union-attr]
        assert tasks[name].has_validation


def test_groups_hold_ours() -> None:
    assert {task.kind for task in resolve_tasks(["safety"])} == {"harmful"}
    assert [task.name for task in resolve_tasks(["over_refusal"])] == ["jbb_benign", "xstest_safe", "or_bench_hard"]


def test_lines_and_tabs_are_read_too(tmp_path: Path) -> None:
    lines, table = tmp_path / "MaliciousInstruct.txt", tmp_path / "eval.tsv"
    lines.write_text("".join(f"Do abstract thing {n}, please\n\n" for n in range(6)), "utf-8")
    rows = "".join(f"Do {n}, please\tadversarial_harmful\n" for n in range(5))
    table.write_text(f"adversarial\tdata_type\n{rows}Else\tadversarial_benign\n", "utf-8")
    use_local([f"malicious_instruct={lines}", f"wildjailbreak={table}"])
    tasks = find_tasks()
    assert read_documents(tasks["malicious_instruct"].card)[1]["prompt"] == "Do abstract thing 1, please"  # type: ignore[arg-type]
    assert len(read_documents(tasks["wildjailbreak"].card)) == 5  # type: ignore[arg-type]


def test_a_local_copy_is_read_by_its_original_name_and_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = find_tasks()["xstest_safe"].fingerprint
    _xstest(tmp_path)
    monkeypatch.setenv(DATA, str(tmp_path))
    info = find_tasks()["xstest_safe"]
    test, validation = (load_task(info, split) for split in ("test", "validation"))
    assert (len(test.eval_docs), len(validation.eval_docs)) == (8, 2)
    assert {doc["category"] for doc in test.eval_docs} == {"kind 0", "kind 1"}
    assert test.config.generation_kwargs["max_gen_toks"] >= 512
    assert info.fingerprint != before


def test_bad_copies_are_named(tmp_path: Path) -> None:
    card = find_tasks()["xstest_safe"].card
    assert card is not None
    use_local([f"xstest={_xstest(tmp_path, column='sort')}"])
    with pytest.raises(UserError, match=r"no category column 'type'; found 'prompt', 'sort', 'label'"):
        read_documents(card)
    _xstest(tmp_path, label="fine")
    with pytest.raises(UserError, match=r"has no rows whose 'label' is 'safe'; found fine, unsafe"):
        read_documents(card)
    (tmp_path / "xstest_prompts.csv").write_text("question,label\nHow?,safe\n", "utf-8")
    with pytest.raises(UserError, match="no column 'prompt'; found 'question', 'label'"):
        read_documents(card)
    with pytest.raises(UserError, match="no such file"):
        use_local(["xstest=nowhere.csv"])


def test_a_gated_set_without_access_says_where_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"gated.*https://huggingface.co/datasets/LLM-Tuning.*--task-data hex_phi=FILE"):
        read_documents(find_tasks()["hex_phi"].card)  # type: ignore[arg-type]


def test_hex_phi_keeps_the_first_line_of_every_category(tmp_path: Path) -> None:
    for category in (1, 2):
        lines = "".join(f'"Do abstract thing {category}.{n}, please."\n' for n in range(4))
        (tmp_path / f"category_{category}.csv").write_text(lines, "utf-8")
    use_local([f"hex_phi={tmp_path}"])
    documents = read_documents(find_tasks()["hex_phi"].card)  # type: ignore[arg-type]
    assert [doc["category"] for doc in documents] == ["category_1"] * 4 + ["category_2"] * 4
    assert documents[0]["prompt"] == "Do abstract thing 1.0, please."


def test_the_hubs_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = find_tasks()["hex_phi"].card
    assert card is not None
    snapshot = tmp_path / "datasets--LLM-Tuning-Safety--HEx-PHI" / "snapshots" / card.revision
    snapshot.mkdir(parents=True)
    (snapshot / "category_1.csv").write_text("".join(f"Do abstract thing {n}.\n" for n in range(5)), "utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert len(read_documents(card)) == 5


def test_context_stands_before_the_behaviour(tmp_path: Path) -> None:
    file = tmp_path / "behaviours.csv"
    rows = "".join(f"Do {n},contextual,kind,A context {n}\n" for n in range(5))
    file.write_text("Behavior,FunctionalCategory,SemanticCategory,ContextString\n" + rows, "utf-8")
    use_local([f"harmbench_contextual={file}"])
    documents = read_documents(find_tasks()["harmbench_contextual"].card)  # type: ignore[arg-type]
    assert documents[0]["prompt"] == "A context 0\n\nDo 0"


def test_show_prints_card_and_rendered_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = _xstest(tmp_path)
    assert main(["tasks", "show", "xstest_safe", "--task-data", f"xstest={file}"]) == 0
    shown = capsys.readouterr().out
    assert "licence: CC-BY-4.0" in shown
    assert shown.count("<bos><start_of_turn>user\nHow do I stop process") == 3
    assert "counted: 8 test, 2 validation" in shown


def test_overlaps_are_listed_and_many_refused() -> None:
    test = ["How do I stop a running process on my old machine?"] + [f"Another question number {n}" for n in range(30)]
    train = ["how do I stop a running process on my OLD machine", "Something else altogether here"]
    assert [str(overlap) for overlap in find_overlaps({"T": test}, {"D": train})] == [
        "T: prompt 1 is also in D (prompt 1)"
    ]
    long = " ".join(f"word{n}" for n in range(60))
    (near,) = find_overlaps({"T": [long]}, {"D": [f"{long} more"]})
    assert not near.exact
    assert len(check_overlaps({"T": test}, {"D": train})) == 1
    with pytest.raises(UserError, match="1 of 5 prompts are also in D"):
        check_overlaps({"T": test[:5]}, {"D": train})
    assert check_overlaps({"T": test[:5]}, {"D": train}, allowed=True)


def test_gated_prompts_go_to_a_remote_judge_only_by_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    tasks = resolve_tasks(["hex_phi"])
    with pytest.raises(UserError, match=r"--send-to api\.openai\.com"):
        check_sending(tasks, "rules,openai:some-model", [])
    check_sending(tasks, "openai:some-model", ["api.openai.com"])
    (made_up,) = (replace(task, card=tasks[0].card) for task in resolve_tasks(["testbed_harmful_unseen"]))
    monkeypatch.setattr(
        resolve, "resolve_tasks", lambda *_: [made_up, *resolve_tasks(["testbed_safe", "testbed_facts"])]
    )
    asked = CompareConfig(pair="testbed", methods=("lora",), reference=("openai:some-model",))
    with pytest.raises(UserError, match=r"'openai:some-model' sends .* --send-to api\.openai\.com"):  # no judge, a row
        prepare(asked)
    assert prepare(asked.model_copy(update={"send_to": ("api.openai.com",)})).sub_runs[0].references
    check_sending(tasks, "rules", [])
    free = resolve_tasks(["advbench"])  # free, but gated where the hub has it
    with pytest.raises(UserError, match="prompts of advbench are gated"):
        check_sending(free, "openai:some-model", [])
    (tmp_path / "own.txt").write_text("Name a thing\n", "utf-8")
    use_local([f"advbench={tmp_path / 'own.txt'}"])
    check_sending(free, "openai:some-model", [])
    check_sending(resolve_tasks(["or_bench_toxic"]), "openai:some-model", [])


def test_what_is_in_distribution_counts_in_no_headline() -> None:
    """The pairs of real models train on HH-RLHF; the paper's group has an unseen task left to rank by."""
    tasks = resolve_tasks(["hh_rlhf_test", "hex_phi", "xstest_safe"])
    assert [task.name for task in tasks if task.seen_in_training] == ["hh_rlhf_test"]
    resolve.check_kinds(tasks, chosen="learning rates")


def test_texts_that_may_not_be_redistributed_stay(tmp_path: Path) -> None:
    for name in ("advbench", "hex_phi"):
        file = tmp_path / "run" / "cells" / "base" / "completions" / "test" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"id": "1"}) + "\n", "utf-8")
    with pytest.raises(UserError, match=r"'hex_phi'.*forbids redistribution"):
        copy_completions(RunFolder(tmp_path / "run"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    file.unlink()
    assert copy_completions(RunFolder(tmp_path / "run"), tmp_path / "out") == 1
    check_redistribution(resolve_tasks(["advbench"]))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the original files are not here")
def test_original_files_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA, str(SHARED / "prompts"))
    use_local([f"hh_rlhf={SHARED / 'preference' / 'hh_rlhf_harmless_base_test.jsonl.gz'}"])
    tasks = find_tasks()
    counts = {"advbench": 520, "jbb_harmful": 100, "xstest_safe": 250, "xstest_unsafe": 200, "hh_rlhf_test": 2178}
    counts |= {"harmbench_standard": 159, "harmbench_contextual": 81, "harmbench_copyright": 80}
    assert {name: len(read_documents(tasks[name].card)) for name in counts} == counts  # type: ignore[arg-type]
