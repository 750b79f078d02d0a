"""Choose the preference pairs that teach to refuse: the chosen answer declines, the rejected one complies.

    python examples/refusals.py harmless-base/test.jsonl.gz refusals.jsonl

reads any preference data that `--train` takes as a file, and writes JSON lines of `prompt`, `chosen` and `rejected`.
In most pairs of HH-RLHF neither answer declines (one asks back, or is merely more polite than the other), and a small
model that learns all of them learns to ask back. What declines is decided by the judge `rules`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from sails_eval.data.reading import read_contrast
from sails_eval.judges.rules import classify


def refusals(pairs: Path) -> Iterator[dict[str, object]]:
    """The pairs whose chosen answer is a refusal and whose rejected answer is none, in the order of the file."""
    for pair in read_contrast(pairs).examples:
        if classify(pair.response) == "refusal" and classify(pair.rejected or "") == "compliance":
            prompt = [{"role": turn.role, "content": turn.content} for turn in pair.messages]
            answers = {"chosen": pair.response, "rejected": pair.rejected}
            yield {"prompt": prompt} | {
                name: [{"role": "assistant", "content": text}] for name, text in answers.items()
            }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pairs", type=Path, help="preference data: chosen and rejected answers")
    parser.add_argument("out", type=Path, help="file to write, JSON lines")
    args = parser.parse_args()
    rows = [json.dumps(row, ensure_ascii=False) for row in refusals(args.pairs)]
    args.out.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} pairs written to {args.out}")
