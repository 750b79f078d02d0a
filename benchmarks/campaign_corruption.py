"""Corrupt the files of a finished run one by one, give its command again, and see what becomes of each.

    python benchmarks/campaign_corruption.py            # every corruption, each in processes of its own
    python benchmarks/campaign_corruption.py --short    # one of each kind, all in this process

A small run on the testbed (SAILS, LoRA and full fine-tuning) is made first; each corruption is done to a copy of it.
What was corrupted is *redone* (the file and results.csv are again what they were), *refused* (one line that names the
file, status 2), *used* (neither: it is still there, or the results are others), or the command ended in a *traceback*.
The last two are failures, and the script's status is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # what stands for workers is that of the tests

Outcome = Literal["redone", "refused", "used", "traceback"]

TASKS = "testbed_harmful_unseen,testbed_lookalike,testbed_facts"
ASKED = (
    f"--methods sails,lora,full --tokens 1200 --seeds 1 --learning-rates 1 --limit 3 --judge grammar --tasks {TASKS} -q"
)

Damage = Callable[[Path], None]


# --- ways to damage a file --------------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    """One bit in the second half is another, as after a disk fault."""
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content) // 2, len(content))] ^= 1
    path.write_bytes(content)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def deleted(path: Path) -> None:
    path.unlink()


def garbled(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(200))


def zeroed(path: Path) -> None:
    """As long as it was, but the disk has lost what was in it."""
    path.write_bytes(bytes(path.stat().st_size))


def without_last_line(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def with_a_line_twice(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))


def edited(old: str, new: str) -> Damage:
    """Something else is said in it."""

    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text, f"{path} does not hold {old}"
        path.write_text(text.replace(old, new))

    return edit


def without_hash(damage: Damage) -> Damage:
    """The hash beside it is lost, too."""

    def both(path: Path) -> None:
        damage(path)
        hashes = (path.with_name(f".{path.name}.sha256"), path.parent / ".sha256")
        next(file for file in hashes if file.is_file()).unlink()

    return both


def not_finite(path: Path) -> None:
    """Weights that are no numbers, in a file that can be read."""
    from safetensors.torch import load_file, save_file

    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)


def other_seed(path: Path) -> None:
    """Weights of another training, in a file that can be read."""
    from safetensors.torch import load_file, save_file

    save_file({name: tensor * 1.5 for name, tensor in load_file(path).items()}, path)


def with_more(path: Path) -> None:
    """A file of weights that training did not save."""
    shutil.copy(path, path.with_name(f"more-{path.name}"))


# --- what is damaged --------------------------------------------------------------------------------------------------

COMPLETIONS, VERDICTS = "completions/test/testbed_lookalike.jsonl", "verdicts/*/test/testbed_harmful_unseen.jsonl"
ADAPTER, MODEL = "cells/lora/*/checkpoint/adapter_model.safetensors", "cells/full/*/checkpoint/model.safetensors"

SHORT: list[tuple[str, Damage]] = [
    (f"cells/lora/*/{COMPLETIONS}", without_last_line),
    (f"cells/lora/*/{VERDICTS}", edited('"id"', '"di"')),
    ("subspace/sails/seed-0.safetensors", flipped),
    (ADAPTER, flipped),
    (MODEL, deleted),
    ("cells/full/*/train.json", halved),
    ("results.csv", edited("refusal_rate", "safety_rate")),
    ("run.json", halved),
]

ALL: list[tuple[str, Damage]] = [
    *SHORT,
    *((f"cells/lora/*/{COMPLETIONS}", damage) for damage in (emptied, halved, garbled, with_a_line_twice, deleted)),
    (f"cells/lora/*/{COMPLETIONS}", without_hash(without_last_line)),
    ("cells/base/completions/validation/testbed_facts.jsonl", edited('"value": 0.0', '"value": 1.0')),
    *(
        (f"cells/lora/*/{VERDICTS}", damage)
        for damage in (emptied, halved, flipped, without_last_line, zeroed, deleted)
    ),
    (f"cells/sails/*/{VERDICTS}", edited('"score": ', '"score": 1')),
    (f"cells/sails/*/{VERDICTS}", without_hash(edited('"score": ', '"score": 1'))),
    *(("subspace/sails/seed-0.safetensors", damage) for damage in (halved, emptied, not_finite, other_seed, deleted)),
    *(("subspace/sails/seed-0.json", damage) for damage in (halved, emptied, edited('"tokens": ', '"tokens": 9'))),
    *((ADAPTER, damage) for damage in (halved, emptied, not_finite, other_seed, deleted, without_hash(other_seed))),
    ("cells/lora/*/checkpoint/adapter_config.json", edited('"r": ', '"r": 1')),
    ("cells/lora/*/checkpoint/adapter_config.json", halved),
    *((MODEL, damage) for damage in (flipped, halved, not_finite, with_more)),
    ("cells/full/*/checkpoint/config.json", emptied),
    *(("cells/sails/*/train.json", damage) for damage in (emptied, garbled, edited('"tokens": ', '"tokens": 9'))),
    *(("results.csv", damage) for damage in (halved, emptied, deleted)),
    *(("choices.json", damage) for damage in (halved, edited('"learning_rate": ', '"learning_rate": 1'))),
    *(("leaderboard.csv", damage) for damage in (emptied, edited("lora", "roal"))),
    *(("cells.json", damage) for damage in (halved, deleted, edited('"hashes"', '"hashed"'))),
    *(("finished.json", damage) for damage in (halved, garbled, deleted)),
    *(("run.json", damage) for damage in (emptied, edited('"seeds": 1', '"seeds": 2'), deleted)),
    ("budget.csv", halved),
    ("config.yaml", edited("1200", "2400")),
]


# --- the run, and what becomes of it ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    status: int
    said: str


Command = Callable[[list[str]], Told]


def apart(command: list[str]) -> Told:
    """The command in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "sails_eval", *command], capture_output=True, text=True)
    return Told(done.returncode, done.stderr)


@contextlib.contextmanager
def here() -> Iterator[Command]:
    """The command in this process, and what workers do, too: the base model is loaded once for all."""
    from sails_eval.cli import main
    from sails_eval.run import compare
    from sails_eval.run.workers import quiet_libraries
    from tests.here import Here

    quiet_libraries()

    def command(given: list[str]) -> Told:
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main(given)
            except BaseException:
                traceback.print_exc(file=said)
                status = 1
        return Told(status, said.getvalue())

    names = vars(compare)
    before = names["workers"]
    names["workers"] = lambda jobs, quiet: contextlib.nullcontext(Here())
    try:
        yield command
    finally:
        names["workers"] = before


def asked(folder: Path) -> list[str]:
    return ["compare", "--pair", str(folder / "mine.yaml"), *ASKED.split(), "--out", str(folder / "run")]


def make(folder: Path, command: Command) -> Path:
    """A finished run in `folder`/run, kept in `folder`/kept as well."""
    from sails_eval.core.paths import PACKAGE

    few = str(PACKAGE / "testbed/data/train.jsonl")
    pair = {"like": "testbed", "examples": 16, "reference_judge": None, "train": few}
    (folder / "mine.yaml").write_text(yaml.safe_dump(pair))
    told = command(asked(folder))
    assert told.status == 0, told.said
    shutil.copytree(folder / "run", folder / "kept")
    return folder / "kept"


def comparable(path: Path) -> Any:
    """What a file says, but for the seconds and the memory that things took."""
    if path.name == "train.json":
        return {k: v for k, v in json.loads(path.read_bytes()).items() if k not in ("seconds", "peak_memory_bytes")}
    if path.parent.name == "sails" and path.suffix == ".json":
        found = json.loads(path.read_bytes())
        return found | {"cost": {k: v for k, v in found["cost"].items() if k != "seconds"}}
    return () if path.name in ("budget.csv", "cells.json", "finished.json") else path.read_bytes()


def outcome(folder: Path, place: str, damage: Damage, command: Command) -> tuple[Outcome, str]:
    """What becomes of a corrupted file, and what the command said."""
    run, kept = folder / "run", folder / "kept"
    shutil.rmtree(run)
    shutil.copytree(kept, run)
    file = next(iter(sorted(run.glob(place))))
    was, name = kept / file.relative_to(run), file.relative_to(run)
    damage(file)
    more = {path.relative_to(run) for path in run.rglob("*")} - {path.relative_to(kept) for path in kept.rglob("*")}
    told = command(asked(folder))
    if "Traceback" in told.said or told.status not in (0, 2):
        return "traceback", told.said
    if told.status == 2:
        named = any(str(one) in told.said for one in (name, name.parent, name.parent.parent) if str(one) != ".")
        one_line = len([line for line in told.said.splitlines() if line.startswith("error")]) <= 1
        return ("refused" if named and one_line else "used"), told.said
    whole = file.is_file() and comparable(file) == comparable(was) and not any((run / path).exists() for path in more)
    same = (run / "results.csv").read_bytes() == (kept / "results.csv").read_bytes()
    return ("redone" if whole and same else "used"), told.said


def campaign(corruptions: list[tuple[str, Damage]], command: Command) -> Counter[Outcome]:
    """Do all of them; how many came to what."""
    seen: Counter[Outcome] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        make(Path(scratch), command)
        for place, damage in corruptions:
            found, said = outcome(Path(scratch), place, damage, command)
            seen[found] += 1
            name = damage.__qualname__.partition(".")[0]
            last = said.strip().splitlines()[-1:] if found != "redone" else []
            print(f"{found:9} {name:17} {place}", *last, sep="  ", flush=True)
    return seen


def main() -> int:
    """Parse the command line, do the campaign, and say what it came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one corruption of each kind, in this process")
    parser.add_argument("--here", action="store_true", help="all of them in this process")
    options = parser.parse_args()
    corruptions = SHORT if options.short else ALL
    with here() if options.short or options.here else contextlib.nullcontext(apart) as command:
        seen = campaign(corruptions, command)
    told = ", ".join(f"{seen[kind]} {kind}" for kind in ("redone", "refused", "used", "traceback"))
    print(f"{len(corruptions)} corruptions: {told}")
    return int(bool(seen["used"] or seen["traceback"]))


if __name__ == "__main__":
    sys.exit(main())
