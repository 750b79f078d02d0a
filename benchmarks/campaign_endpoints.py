"""What faulty endpoints, kills and several processes at once do to a comparison and to files of answers.

    python benchmarks/campaign_endpoints.py            # some minutes
    python benchmarks/campaign_endpoints.py --short    # less of the same, under a minute

A local server answers as a judge would; a share of its replies goes wrong in one of fifteen ways (hangs, slow drips,
resets, redirects to another server, gzip bombs, errors, replies of no form). Each line says what was to be seen and
what was; the exit status is 1 where something else was.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the server is that of the tests

from sails_eval.core.files import read_jsonl, write_jsonl  # noqa: E402
from tests.judges.fault_server import HANG, Endpoint, Faulty, Reply, bomb, prompt_of, serving  # noqa: E402

COMPARE = (
    "compare --pair testbed --methods lora --tokens 400 --seeds 1 --learning-rates 2 --jobs 1 -q "
    "--tasks testbed_harmful_unseen,testbed_safe"
).split()


@dataclass(frozen=True)
class Size:
    """How much is tried: prompts of a task, kills, answers in a file, and the judge's options where requests hang."""

    limit: int
    kills: int
    answers: int
    options: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="fewer prompts, kills and answers")
    size = Size(6, 1, 60, "?timeout=20&patience=20") if parser.parse_args().short else Size(24, 3, 600)
    with tempfile.TemporaryDirectory() as folder, serving() as server, serving() as elsewhere:
        campaign = Campaign(Path(folder), server, elsewhere)
        seen = [
            campaign.comparison(size),
            campaign.hangs(size),
            campaign.processes(size.answers),
            campaign.bombs(),
        ]
        print(f"requests that reached the server to which redirects lead: {len(elsewhere.received)} (to be seen: 0)")
    return 0 if all(seen) and not elsewhere.received else 1


class Campaign:
    def __init__(self, folder: Path, server: Endpoint, elsewhere: Endpoint) -> None:
        self.folder, self.server, self.elsewhere = folder, server, elsewhere

    def comparison(self, size: Size) -> bool:
        """Of `compare` with 40 % faults and kills, the results of one without."""
        command = [*COMPARE, "--limit", str(size.limit), "--judge", "openai:grader?timeout=2"]
        self.server.chat = whole = Faulty(rate=0)
        assert self.start([*command, "--out", "whole"], cache="whole").wait() == 0
        self.server.chat = faulty = Faulty(0.4, seed=1, slow=3, elsewhere=self.elsewhere.url, share_lasting=0)
        kills = 0
        while True:
            process = self.start([*command, "--out", "faulty"], cache="faulty")
            goal = (kills + 1) * len(whole.served) // (size.kills + 1)
            while kills < size.kills and process.poll() is None and len(faulty.served) < goal:
                time.sleep(0.01)
            if kills < size.kills and process.poll() is None:
                process.kill()
                kills += 1
            if process.wait() >= 0:
                break
        results = [(self.folder / name / "results.csv").read_bytes() for name in ("whole", "faulty")]
        rows = csv.DictReader(results[1].decode().splitlines())
        unscored = Counter(row["unscored"] for row in rows)
        wrong = faulty.asked.total() - faulty.seen["none"]
        print(
            f"compare: {len(whole.served)} different answers; {faulty.asked.total()} requests, {wrong} of them faulty "
            f"({dict(sorted(faulty.seen.items()))}), {kills} kills, status {process.returncode}; results.csv "
            f"{'the same' if results[0] == results[1] else 'DIFFERENT'}, rows by unscored answers {dict(unscored)}; "
            f"answers scored twice {sum(n > 1 for n in faulty.served.values())} (at most those on their way at a kill)",
            flush=True,
        )
        return results[0] == results[1] and process.returncode == 0 and kills == size.kills

    def hangs(self, size: Size) -> bool:
        """8 % of the requests hang, no more than two about one answer.

        Patience is no longer than a reply may take, as by default.
        """
        answers = size.answers // 2
        inner = Faulty(rate=0, latency=0.1)

        def chat(body: dict[str, object]) -> Reply:
            before = inner.asked[prompt_of(body)]
            hangs = before < 2 and inner._draw(prompt_of(body), before).random() < 0.08
            inner.asked[prompt_of(body)] += hangs
            return HANG if hangs else inner(body)

        self.server.chat = chat
        started = time.monotonic()
        status = self.score("hangs", answers, options=size.options).wait()
        unscored = sum(row["unscored"] is not None for row in read_jsonl(self.folder / "hangs.scores.jsonl"))
        hung = inner.asked.total() - inner.served.total()
        print(
            f"hangs: {answers} answers, {hung} requests that hang, {unscored} unscored (to be seen: 0), "
            f"status {status}, {time.monotonic() - started:.0f} s",
            flush=True,
        )
        return status == 0 and unscored == 0

    def processes(self, answers: int) -> bool:
        """Four processes judge the same answers at the same time."""
        self.server.chat = chat = Faulty(rate=0, latency=0.1)
        made = [self.score(f"process-{i}", answers, cache="shared") for i in range(4)]
        statuses = [process.wait() for process in made]
        print(
            f"four processes: {answers} answers each, {chat.asked.total()} requests (to be seen: {answers}), "
            f"statuses {statuses}",
            flush=True,
        )
        return statuses == [0] * 4 and chat.asked.total() == answers

    def bombs(self) -> bool:
        """Replies of 1 MB that are 1 GB unpacked, against replies without."""
        peaks = []
        for name, reply in (("plain", None), ("bombs", bomb(1024))):
            whole = Faulty(rate=0)
            self.server.chat = lambda body, whole=whole, reply=reply: reply or whole(body)  # type: ignore[misc]
            process = self.score(name, 20, options="?patience=1")
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            peaks.append(used.ru_maxrss / 1024)
            print(f"{name}: status {process.returncode}, {peaks[-1]:.0f} MB of memory at most", flush=True)
        return peaks[1] < peaks[0] + 300

    def score(self, name: str, answers: int, *, cache: str = "", options: str = "") -> subprocess.Popen[bytes]:
        rows = [{"prompt": f"request {i}", "response": f"answer {i} {'' if cache else name}"} for i in range(answers)]
        write_jsonl(self.folder / f"{name}.jsonl", rows)
        judge = f"openai:grader{options}"
        command = ["judge", "score", f"{name}.jsonl", "--judge", judge, "--out", f"{name}.scores.jsonl", "-q"]
        return self.start(command, cache=cache or name)

    def start(self, command: list[str], *, cache: str) -> subprocess.Popen[bytes]:
        own = {"OPENAI_BASE_URL": self.server.url, "OPENAI_API_KEY": "none", "PYTHONPATH": str(ROOT)}
        own |= {"SAILS_EVAL_CACHE": str(self.folder / f"{cache}.sqlite"), "NO_PROXY": "127.0.0.1"}
        return subprocess.Popen(
            [sys.executable, "-m", "sails_eval", *command],
            cwd=self.folder,
            env=os.environ | own,
            stdout=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    sys.exit(main())
