"""A run that is resumed deletes what was damaged, with what was made of it, and refuses what it cannot make again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sails_eval.analyses.durability.report import Decay
from sails_eval.boards.table import frame_text, make_frame, read_rows
from sails_eval.core.checksums import listing, note, write_checked
from sails_eval.core.errors import UserError
from sails_eval.core.files import table_text
from sails_eval.core.fingerprint import of_path
from sails_eval.core.records import RowKey
from sails_eval.run.folder.mend import mend
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.places import inside
from sails_eval.run.folder.records import Finished, Reused, Seal, Stopped, SubspaceReport, Tuned
from sails_eval.run.folder.run_folder import RunFolder
from tests.run.test_compare import RECORD

CELL = "cells/lora/rate-0.1-seed-0-12345678"
ANSWERS, VERDICTS = "completions/test/bad.jsonl", "verdicts/01234567/test/bad.jsonl"
ANSWER, VERDICT = '{"id": "1", "prompt": "p", "response": "r", "category": ""}\n', '{"id": "1", "label": "refusal"}\n'


def answered(model: ModelFolder) -> None:
    """Give a model answers and verdicts."""
    for split in ("validation", "test"):
        write_checked(model.answers_file(split, "bad"), ANSWER, private=True)
        write_checked(model.verdicts_file(split, "bad", "01234567"), VERDICT, private=True)


def trained(model: ModelFolder) -> None:
    model.checkpoint.mkdir(parents=True)
    (model.checkpoint / "adapter_model.safetensors").write_text("weights")
    note(model.checkpoint)
    RECORD.write(model.record.path)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run of one cell, without the files that no test looks at."""
    run = RunFolder(tmp_path / "run")
    for model in (run.row("base"), cell := ModelFolder(run.path / CELL)):
        answered(model)
    trained(cell)
    write_checked(run.subspace("lora"), "tensors")
    SubspaceReport().write(run.subspace_report_file("lora"))
    run.write_results([], {})
    Reused(run="r", cells=[]).write(run.reused.path)
    Tuned(scores={}, best="lora").write(run.tuned.path)
    Seal(hashes={CELL: of_path(cell.path)}).write(run.seal.path)
    Finished(asked="a", files={}).write(run.finished.path)
    return run


def there(run: RunFolder) -> set[str]:
    files = (path for path in run.path.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(run.path)) for path in files}


def test_what_is_as_it_was_written_stays(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    before = of_path(run.path)
    mend(run)
    assert of_path(run.path) == before and not caplog.records


TRAINED = {f"{CELL}/train.json", f"{CELL}/checkpoint/adapter_model.safetensors"}
START = {"subspace/lora.safetensors", "subspace/lora.json"}


@pytest.mark.parametrize("damage", ["emptied", "flipped", "unhashed"])
@pytest.mark.parametrize(
    ("file", "gone"),
    [
        (f"{CELL}/{ANSWERS}", {f"{CELL}/{ANSWERS}", f"{CELL}/{VERDICTS}"}),
        (f"{CELL}/{VERDICTS}", {f"{CELL}/{VERDICTS}"}),
        (f"cells/base/{ANSWERS}", {f"cells/base/{ANSWERS}", f"cells/base/{VERDICTS}"}),
        (f"{CELL}/train.json", TRAINED),
        (f"{CELL}/checkpoint/adapter_model.safetensors", TRAINED),
        ("subspace/lora.safetensors", START),
        ("subspace/lora.json", START),
        ("results.csv", {"results.csv"}),
        ("choices.json", {"choices.json"}),
        ("cells.json", {"cells.json"}),
        ("finished.json", {"finished.json"}),
    ],
)
def test_what_is_damaged_is_deleted_with_what_was_made_of_it(
    run: RunFolder, file: str, gone: set[str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = run.path / file, there(run)
    if damage == "unhashed":
        if "/" not in file:
            return  # such a file is written again at the end, whatever it says
        (path.parent / ".sha256" if "checkpoint" in file else listing(path)).unlink()
    content = path.read_bytes()
    path.write_bytes(b"" if damage == "emptied" else content[:-1] + bytes([content[-1] ^ 1]))
    mend(run)
    assert before - there(run) == gone
    told = path.parent if "checkpoint" in file else path
    assert caplog.records[0].getMessage().startswith(f"{told}: changed or damaged since it was written (")
    assert not any(listing(run.path / name).exists() for name in gone)


def test_verdicts_on_answers_that_are_gone_are_deleted(run: RunFolder) -> None:
    (run.path / CELL / ANSWERS).unlink()
    before = there(run)
    mend(run)
    assert before - there(run) == {f"{CELL}/{VERDICTS}"}


@pytest.mark.parametrize("name", ["tuning.json", "reused.json"])
def test_what_cannot_be_made_again_is_refused_with_its_name(run: RunFolder, name: str) -> None:
    (run.path / name).write_text("{")
    with pytest.raises(UserError, match=rf"{name}: changed or damaged .*; restore it, or give another --out$"):
        mend(run)


def test_a_cell_of_several_checkpoints_is_made_again_as_a_whole(run: RunFolder) -> None:
    cell = ModelFolder(run.path / CELL)
    for number in (1, 2):
        trained(step := cell.step(number))
        answered(step)
    Stopped(step=2, alignment_score={1: 0.0, 2: 1.0}).write(cell.stopped.path)
    before = there(run)
    mend(run)
    assert there(run) == before
    cell.stopped.path.write_text(cell.stopped.path.read_text().replace("1.0", "0.0"))
    mend(run)
    assert not cell.path.exists()


def without_hashes(run: RunFolder) -> None:
    """As a version without hashes would have written it."""
    for path in run.path.rglob(".*sha256"):
        path.unlink()
    run.seal.path.write_text(json.dumps({"schema": 1, "hashes": {CELL: of_path(run.path / CELL)}}))


def test_a_run_without_hashes_stays_and_has_them_from_then_on(run: RunFolder) -> None:
    without_hashes(run)
    before = there(run)
    assert RunFolder(run.path).results() == [] and ModelFolder(run.path / CELL).answers("test", "bad")
    mend(run)
    assert there(run) == before and listing(run.path / CELL / ANSWERS).is_file()
    (run.path / CELL / ANSWERS).write_text("")
    mend(run)
    assert before - there(run) == {f"{CELL}/{ANSWERS}", f"{CELL}/{VERDICTS}"}


def test_a_run_without_hashes_that_was_changed_since_its_end_is_refused(run: RunFolder) -> None:
    without_hashes(run)
    (run.path / CELL / VERDICTS).write_text(VERDICT.replace("refusal", "compliance"))
    with pytest.raises(UserError, match=rf"{CELL}: changed since the run was finished; restore it, or delete it"):
        mend(run)


def test_whoever_reads_a_damaged_file_is_told_its_name(run: RunFolder) -> None:
    cell = ModelFolder(run.path / CELL)
    reads: dict[Path, Callable[[], Any]] = {
        cell.answers_file("test", "bad"): lambda: cell.answers("test", "bad"),
        cell.verdicts_file("test", "bad", "01234567"): lambda: cell.verdicts("test", "bad", "01234567"),
        cell.record.path: cell.record,
        run.results_file: run.results,
        run.chosen.path: lambda: run.choices({}),
        run.subspace_report_file("lora"): lambda: run.subspace_report("lora"),
        run.leaderboard: lambda: read_rows(run.leaderboard),
        run.analysis("durability").table: lambda: run.analyses("durability"),
    }
    write_checked(run.leaderboard, frame_text(make_frame([])))
    write_checked(run.analysis("durability").table, table_text(Decay, []))
    for path, read in reads.items():
        read()
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(UserError, match=f"^{path}: changed or damaged since it was written"):
            read()


# --- nothing is written outside -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../EVIL", "/tmp/EVIL", "..", "a/b", "x" * 300, "a\0"])
def test_no_name_leads_out_of_a_run(run: RunFolder, name: str) -> None:
    row: Any = SimpleNamespace(recipe=SimpleNamespace(name=name), name="rate-1")
    makes: list[Callable[[], object]] = [
        lambda: run.row(name),
        lambda: run.cell(row),
        lambda: run.model(name, 0, 0.1),
        lambda: run.model(name, None, None),
        lambda: run.subspace(name),
        lambda: run.subspace(name, 3),
        lambda: run.checkpoints(name, 0.1),
        lambda: run.analysis(name),
        lambda: run.row("base").answers_file("test", name),
        lambda: run.row("base").answers_file(name, "bad"),  # type: ignore[arg-type]
        lambda: run.row("base").verdicts_file("test", name, "01234567"),
        lambda: run._judged(RowKey(name, None, None, "test", "bad")),
    ]
    for make in makes:
        with pytest.raises(UserError):
            make()
    with pytest.raises(UserError, match="is not a valid name"):
        run.row("base").verdicts_file("test", "bad", "../../../EVIL")


@pytest.mark.parametrize("link", ["cells", "subspace", "cells/lora", CELL, f"{CELL}/completions", f"{CELL}/verdicts"])
def test_no_link_leads_out_of_a_run(run: RunFolder, link: str, tmp_path: Path) -> None:
    shutil.move(run.path / link, tmp_path / "elsewhere")
    (run.path / link).symlink_to(tmp_path / "elsewhere")
    before = of_path(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{link}: a link out of the run folder, to .*elsewhere; a run writes inside"):
        mend(run)
        model = ModelFolder(inside(run.path, *CELL.split("/")))
        answered(model)
    assert of_path(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("link", ["cells/lora", CELL, f"{CELL}/completions", f"{CELL}/completions/test", "sub"])
def test_what_a_link_leads_to_is_not_mended(run: RunFolder, link: str, tmp_path: Path) -> None:
    if link == "sub":
        shutil.copytree(run.path, tmp_path / "elsewhere")
        (tmp_path / "elsewhere/run.json").write_text("{}")
    else:
        shutil.move(run.path / link, tmp_path / "elsewhere")
    for file in [one for one in (tmp_path / "elsewhere").rglob("*.jsonl") if one.name[0] != "."]:
        file.write_text("damaged")
    (run.path / link).symlink_to(tmp_path / "elsewhere")
    before = of_path(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"{link}: a link out of the run folder, to .*elsewhere; a run writes inside"):
        mend(run)
    assert of_path(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("name", [".lock", "compare.log"])
def test_files_that_are_written_in_place_are_no_links(run: RunFolder, name: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    (run.path / name).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=f"{name}: a link out of the run folder"), run.locked(), run._logged():
        pass
    assert (tmp_path / "mine").read_text() == "years of work"


def test_a_run_may_be_a_link_as_a_whole_and_weights_may_be_elsewhere_until_they_are_deleted(
    run: RunFolder, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(run.path)
    cell = ModelFolder(RunFolder(tmp_path / "link").path / CELL)
    answered(cell)
    shutil.move(cell.checkpoint, tmp_path / "weights")
    cell.checkpoint.symlink_to(tmp_path / "weights")
    mend(RunFolder(tmp_path / "link"))
    cell.drop_checkpoint()
    assert not cell.checkpoint.exists() and (tmp_path / "weights/adapter_model.safetensors").exists()


def test_choices_of_names_that_are_none_are_refused(run: RunFolder) -> None:
    listing(run.chosen.path).unlink()
    run.chosen.path.write_text('{"schema": 1, "choices": {"../EVIL": {"method": "x", "learning_rate": 0.1}}}')
    with pytest.raises(UserError, match=r"choices\.json: .*is not a valid name"):
        run.choices({})
