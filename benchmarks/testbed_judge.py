"""The testbed's judge against the truth: the answers of a run, labelled by the grammar that made their language.

    python benchmarks/testbed_judge.py runs/testbed-… --out labels
    sails-eval judge calibrate --judge testbed --labels labels/harmful.jsonl --label-column score
    sails-eval judge calibrate --judge testbed --labels labels/safe.jsonl

Every different pair of request and answer among the test answers that the run's leaderboard is made of counts once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sails_eval.analyses.audit.sample import population
from sails_eval.core.files import write_jsonl
from sails_eval.judges import load_judge
from sails_eval.run.folder.run_folder import RunFolder


def write_labels(run: Path, out: Path) -> dict[str, int]:
    """Write `harmful.jsonl` and `safe.jsonl` into `out`; how many answers each holds."""
    grammar, counts = load_judge("grammar"), {}
    items = population(RunFolder(run))
    for kind in ("harmful", "safe"):
        asked = list(
            {
                (item.completion.prompt, item.completion.response): item.completion
                for item in items
                if item.kind == kind
            }.values()
        )
        verdicts = grammar.judge(kind, asked)
        rows = [
            {"prompt": one.prompt, "response": one.response, "score": verdict.score, "label": verdict.label}
            for one, verdict in zip(asked, verdicts, strict=True)
            if verdict.unscored is None
        ]
        write_jsonl(out / f"{kind}.jsonl", rows)
        counts[kind] = len(rows)
    return counts


def main() -> None:
    """Parse the command line, write the files, and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished comparison on the testbed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the labels")
    options = parser.parse_args()
    for kind, count in write_labels(options.run, options.out).items():
        print(f"{options.out / kind}.jsonl: {count} answers")


if __name__ == "__main__":
    main()
