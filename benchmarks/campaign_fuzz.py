"""Fuzzed files of every kind that people give: each is read, or refused in one line that names it, within seconds.

    python benchmarks/campaign_fuzz.py                 # 10,000 files, some minutes
    python benchmarks/campaign_fuzz.py --files 500     # fewer

Hypothesis breaks valid files: it cuts them, flips bytes, repeats and moves pieces, puts in what parsers dislike, and
puts other values in place of those in JSON and YAML. Files of the testbed's model, an adapter and a SAE are read by the
libraries that load them, which takes longer: of these there are a tenth as many. The same files come on every run. The
exit status is 1 where a file led to anything else than its content or a UserError of one line with its name, or took
longer than five seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sails_eval.boards.table import read_rows as read_board
from sails_eval.cli.common import config_values
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError, out_of_memory
from sails_eval.core.pair import Pair, SaeSource, load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.schema import validate
from sails_eval.data.reading import read_examples
from sails_eval.judges.answer_files import AnswerColumns, read_answers
from sails_eval.methods.subspace.saes import load_sae
from sails_eval.models.base import Base, applied, load_base
from sails_eval.plan.cost.meta_model import shape_of
from sails_eval.plan.cost.model_checks import check_answers, check_model, check_sae, check_tokens
from sails_eval.plan.problems import Problems
from sails_eval.run.workers import quiet_libraries
from sails_eval.tasks.folders import check_task

ROOT = Path(__file__).parents[1]

SLOW = 5.0
"""Seconds that a file may take."""

ROWS = [
    {"prompt": "How do I bake bread?", "response": "With flour."},
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]},
    {"chosen": "\n\nHuman: hi\n\nAssistant: I can't.", "rejected": "\n\nHuman: hi\n\nAssistant: [placeholder]"},
    {"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c", "category": "d"},
]
JSONL = "\n".join(map(json.dumps, ROWS)).encode()
CSV = b'prompt,response,category\n"How, then?",So.,a\nWhy?,"Because\nof it",b\n'
ANSWERS = b'{"id": 1, "prompt": "a", "response": "I cannot."}\n{"id": 2, "prompt": "b", "response": "Sure."}\n'
RECIPE = b"description: A recipe.\nlike: lora\nrank_factor: 2\nlearning_rate: {low: 1.0e-4, high: 8.0e-4}\n"
PAIR = b"like: testbed\nexamples: 16\ntasks: [testbed_safe]\nreferences: {a: ./b}\ntarget_modules: [q_proj, v_proj]\n"
CONFIG = b"methods: [sails, lora]\nseeds: 2\nlearning-rates: 2\nregularise: {kl: 0.1}\nexamples: [8, 16]\n"


@dataclass(frozen=True)
class Kind:
    """A kind of file: where it lies, a valid one, how it is read, and what errors call it, if not by its name."""

    place: str
    valid: bytes
    read: Callable[[Path], object]
    called: str = ""
    share: float = 1.0

    @property
    def name(self) -> str:
        return Path(self.place).name


def _config(path: Path) -> object:
    return validate(CompareConfig, config_values(path), where=str(path))


TESTBED = ROOT / "sails_eval/testbed/weights/testbed"
MODEL, ADAPTER, SAE = TESTBED / "base", TESTBED / "preference", TESTBED / "sae/good/layer_1"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
PAIR_OF_MODEL = Pair(name="p", model="base", rank=2, dtype="float32", target_modules=MODULES)
TASK = b"""\
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: test.jsonl, validation: validation.jsonl}}
test_split: test
validation_split: validation
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: ""
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 64}
metadata: {kind: harmful, version: 1}
"""


def _model(_: Path) -> None:
    """As `plan` reads a model, and then as `pairs check` and `compare` do, which have to find all that it finds."""
    planned = Problems()
    if (shape := planned.attempt(shape_of, PAIR_OF_MODEL)) is not None:
        planned += planned.attempt(check_model, shape, PAIR_OF_MODEL, ()) or ()
    base = load_base(PAIR_OF_MODEL)
    check_tokens(base.tokenizer, base.model)
    check_answers(base.tokenizer)
    if planned.stopping:
        raise AssertionError(f"only plan finds: {planned.stopping[0]}")


@cache
def _sound() -> Base:
    return load_base(PAIR_OF_MODEL.model_copy(update={"model": str(MODEL)}))


def _adapter(path: Path) -> None:
    with applied(_sound(), path.parent):
        pass


def _sae(path: Path) -> object:
    pair = PAIR_OF_MODEL.model_copy(update={"model": str(MODEL)})
    check_sae(SaeSource(path=path.parent), shape_of(pair), pair)
    return load_sae(SaeSource(path=path.parent))


def _task(path: Path) -> None:
    if problems := check_task(path):
        raise UserError(problems[0])


def _of(folder: Path, name: str, read: Callable[[Path], object], called: str = "") -> Kind:
    return Kind(f"{folder.name}/{name}", (folder / name).read_bytes(), read, called, share=0.1)


KINDS = (
    _of(MODEL, "config.json", _model),
    _of(MODEL, "generation_config.json", _model),
    _of(MODEL, "tokenizer.json", _model, called="tokenizer"),
    _of(MODEL, "tokenizer_config.json", _model, called="tokenizer"),
    _of(MODEL, "chat_template.jinja", _model, called="chat"),
    _of(ADAPTER, "adapter_config.json", _adapter),
    _of(SAE, "cfg.json", _sae, called="layer_1"),
    Kind("mine.yaml", TASK, _task, share=0.1),
    Kind("data.jsonl", JSONL, read_examples),
    Kind("data.json", json.dumps(ROWS[:1]).encode(), read_examples),
    Kind("data.csv", CSV, read_examples),
    Kind("data.jsonl.gz", gzip.compress(JSONL, mtime=0), read_examples),
    Kind("answers.jsonl", ANSWERS, lambda path: read_answers(path, AnswerColumns())),
    Kind("recipe.yaml", RECIPE, lambda path: load_recipe(str(path))),
    Kind("pair.yaml", PAIR, lambda path: load_pair(str(path))),
    Kind("config.yaml", CONFIG, _config),
    Kind("board.csv", b"".join((ROOT / "leaderboards/testbed.csv").read_bytes().splitlines(True)[:3]), read_board),
)

NASTY = (
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\xbd", b"\\ud83d", b"\r\n", b"\x1b[31m", "\u202e".encode()),
    *(b"null", b"NaN", b"Infinity", b"1e999", b"9" * 400, b"-1", b"true", b"{}", b"[]", b'""', b'"', b"'", b","),
    *(b"[" * 5000, b"{" * 300, b'{"a":' * 2000, b"- " * 2000, b"&a [*a]", b"*a", b"!!python/object:os.system x"),
    *(
        b"!!binary x",
        b"? ",
        b": ",
        b"\t",
        b"---\n",
        b"2024-02-30",
        b"0x_",
        b"a: &a [x]\nb: *a\n",
        b"../../../x",
        b"$HOME",
    ),
)

PIECES = st.integers(0, 2000)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2.5, 10**9, 10**30, 1e300, "", "x", "(", "four", "\ud83d", "../x", "9" * 5000, [], {}, [[]]),
    *([1], ["x"], {"x": 1}, {"x": {}}, [[0, 9]]),
)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("cut"), PIECES, PIECES, st.just(b"")),
        st.tuples(st.just("put"), PIECES, PIECES, st.sampled_from(NASTY) | st.binary(max_size=8)),
        st.tuples(st.just("repeat"), PIECES, PIECES, st.just(b"")),
        st.tuples(st.just("flip"), PIECES, st.integers(0, 7), st.just(b"")),
    ),
    min_size=1,
    max_size=6,
)
SWAPS = st.lists(st.tuples(PIECES, st.sampled_from(VALUES)), min_size=1, max_size=2)
"""Values by their number in a file, which others take the place of."""


def swapped(content: bytes, swaps: list[tuple[int, Any]], *, as_json: bool) -> bytes:
    """A JSON or YAML file with other values."""
    root = [json.loads(content) if as_json else yaml.safe_load(content)]
    for number, value in swaps:
        places: list[tuple[Any, Any]] = [(root, 0)]
        for holder, key in places:  # which grows
            held = holder[key]
            keys = list(held) if isinstance(held, dict) else range(len(held)) if isinstance(held, list) else ()
            places += [(held, key) for key in keys]
        holder, key = places[number % len(places)]
        holder[key] = deepcopy(value)
    return (json.dumps(root[0]) if as_json else yaml.safe_dump(root[0])).encode()


def broken(content: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    """A file after the changes, one after the other."""
    for kind, a, b, new in changes:
        a, b = sorted((a % (len(content) + 1), b % (len(content) + 1))) if kind != "flip" else (a, b)
        if kind == "cut":
            content = content[:a] + content[b:]
        elif kind == "put":
            content = content[:a] + new + content[a:]
        elif kind == "repeat":
            content = content[:b] + content[a:b] + content[b:]
        elif content:
            a %= len(content)
            content = content[:a] + bytes([content[a] ^ (1 << b)]) + content[a + 1 :]
    return content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, metavar="N", help="files in all (default: 10000)")
    files = parser.parse_args().files
    seen: Counter[tuple[str, str]] = Counter()
    faults: dict[str, bytes] = {}
    quiet_libraries()
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for source in (MODEL, ADAPTER, SAE):
            shutil.copytree(source, source.name)
        for split in ("test", "validation"):
            Path(f"{split}.jsonl").write_text(json.dumps({"prompt": f"Why {split}?"}) + "\n")
        for kind in KINDS:
            _fuzz(kind, max(1, round(kind.share * files / sum(each.share for each in KINDS))), seen, faults)
    outcomes = ("read", "refused", "slow", "other")
    print("file", *outcomes, sep="\t")
    for kind in KINDS:
        print(kind.name, *(seen[kind.name, outcome] for outcome in outcomes), sep="\t")
    for told, content in faults.items():
        print(f"{told}\n    {content[:300]!r}", file=sys.stderr)
    return 1 if any(seen[kind.name, outcome] for kind in KINDS for outcome in outcomes[2:]) else 0


def _fuzz(kind: Kind, files: int, seen: Counter[tuple[str, str]], faults: dict[str, bytes]) -> None:
    path, ending = Path(kind.place), Path(kind.place).suffix
    swaps = ending in (".json", ".yaml")
    tries = settings(
        max_examples=files, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )

    @tries
    @given(SWAPS | CHANGES if swaps else CHANGES)
    def attempt(changes: Any) -> None:
        swap = swaps and len(changes[0]) == 2
        content = swapped(kind.valid, changes, as_json=ending == ".json") if swap else broken(kind.valid, changes)
        path.write_bytes(content)
        began = time.process_time()
        outcome = "read"
        try:
            kind.read(path)
        except UserError as error:
            lines = str(error).splitlines()
            told = len(lines) == 1 and (kind.called or kind.name) in lines[0]
            outcome = "refused" if told else "other"
            if outcome == "other":
                faults.setdefault(f"{kind.name}: {str(error)[:200]!r}", content)
        except Exception as error:  # what is looked for
            outcome = "refused" if out_of_memory(error) else "other"  # which the command line tells
            if outcome == "other":
                faults.setdefault(f"{kind.name}: {type(error).__name__}: {str(error)[:200]}", content)
        if time.process_time() - began > SLOW:
            outcome = "slow"
            faults.setdefault(f"{kind.name}: took {time.process_time() - began:.1f} s", content)
        seen[kind.name, outcome] += 1

    attempt()
    path.write_bytes(kind.valid)


if __name__ == "__main__":
    sys.exit(main())
