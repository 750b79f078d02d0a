"""Train the learned judge that ships with the package, and the one over n-grams that the docs compare it with.

    python scripts/shipped_judges.py DATA     # a folder with xstest_*.csv and jailbreakbench_*.jsonl

XSTest's answers with people's labels, those files that were there for development, are learnt from and tested on. The
n-grams also learn from JailbreakBench's answers of three further models, whose labels are those of a string match;
hidden states do without. The model is that of `sails-eval models fetch smollm2-135m`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from sails_eval.cli import main
from sails_eval.judges.learned.judge import DEFAULT, SHIPPED

NOTE = (
    "XSTest's requests and labels are licensed CC-BY-4.0 (Röttger et al. 2024, arXiv 2308.01263); the answers are "
    "those of the models named. The judge holds none of these texts, only weights."
)


def string_matched(file: Path, out: Path) -> Path:
    """The answers of a file of JailbreakBench runs, labelled by the string match that they came with."""
    model = file.stem.partition("_")[2]
    rows = [
        {
            "prompt": row["prompt"],
            "response": row["response"],
            "label": "compliance" if row["is_jailbreak_substring_matching"] else "refusal",
            "model": model,
        }
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
    ]
    out.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with xstest_*.csv and jailbreakbench_*.jsonl")
    text = "train the judge over n-grams instead, and write it there: it holds fragments of answers"
    parser.add_argument("--ngrams", type=Path, metavar="DIR", help=text)
    args = parser.parse_args()
    labels = [str(path) for path in sorted(args.data.glob("xstest_*.csv"))]
    command = ["judge", "train", "--labels", *labels, "--note", NOTE, "--out"]
    if args.ngrams is None:
        sys.exit(main([*command, str(SHIPPED / DEFAULT), "--features", f"hf:{DEFAULT}"]))
    with tempfile.TemporaryDirectory() as folder:
        files = sorted(args.data.glob("jailbreakbench_*.jsonl"))
        extra = [str(string_matched(file, Path(folder) / f"{file.stem}.jsonl")) for file in files]
        sys.exit(main([*command, str(args.ngrams), "--extra-labels", *extra]))
