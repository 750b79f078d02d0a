"""Fuzzed files of every kind that people give: each is read, or refused in one line that names it, within seconds.

    python benchmarks/campaign_fuzz.py                 # 10,000 files, some minutes
    python benchmarks/campaign_fuzz.py --files 500     # fewer

Hypothesis breaks valid files: it cuts them, flips bytes, repeats and moves pieces, and puts in what parsers dislike.
The same files come on every run. The exit status is 1 where a file led to anything else than its content or a
UserError of one line with its name, or took longer than five seconds.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sails_eval.boards.table import read_rows as read_board
from sails_eval.cli.common import config_values
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.schema import validate
from sails_eval.data.reading import read_examples
from sails_eval.judges.answer_files import AnswerColumns, read_answers

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
    """A kind of file: what it is called, a valid one, and how it is read."""

    name: str
    valid: bytes
    read: Callable[[Path], object]


def _config(path: Path) -> object:
    return validate(CompareConfig, config_values(path), where=str(path))


KINDS = (
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
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind in KINDS:
            _fuzz(kind, files // len(KINDS), seen, faults)
    outcomes = ("read", "refused", "slow", "other")
    print("file", *outcomes, sep="\t")
    for kind in KINDS:
        print(kind.name, *(seen[kind.name, outcome] for outcome in outcomes), sep="\t")
    for told, content in faults.items():
        print(f"{told}\n    {content[:300]!r}", file=sys.stderr)
    return 1 if any(seen[kind.name, outcome] for kind in KINDS for outcome in outcomes[2:]) else 0


def _fuzz(kind: Kind, files: int, seen: Counter[tuple[str, str]], faults: dict[str, bytes]) -> None:
    path = Path(kind.name)
    tries = settings(
        max_examples=files, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )

    @tries
    @given(CHANGES)
    def attempt(changes: Any) -> None:
        content = broken(kind.valid, changes)
        path.write_bytes(content)
        began = time.process_time()
        outcome = "read"
        try:
            kind.read(path)
        except UserError as error:
            lines = str(error).splitlines()
            outcome = "refused" if all(kind.name in line for line in lines[:1]) and len(lines) == 1 else "other"
            if outcome == "other":
                faults.setdefault(f"{kind.name}: {str(error)[:200]!r}", content)
        except Exception as error:  # what is looked for
            outcome = "other"
            faults.setdefault(f"{kind.name}: {type(error).__name__}: {str(error)[:200]}", content)
        if time.process_time() - began > SLOW:
            outcome = "slow"
            faults.setdefault(f"{kind.name}: took {time.process_time() - began:.1f} s", content)
        seen[kind.name, outcome] += 1

    attempt()


if __name__ == "__main__":
    sys.exit(main())
