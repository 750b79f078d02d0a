"""How fast the judge `openai:MODEL` is: requests per second against concurrency ÷ latency, and a run from the cache.

    python benchmarks/judging.py

A loopback server of its own process answers every request after LATENCY seconds. What one would get at best with c
requests at the same time is c / LATENCY verdicts per second; the table has the share of that which is reached, with all
that judging a file does (hashing, cache, writing). The cached run judges answers that the cache knows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from sails_eval.core.files import write_jsonl
from sails_eval.core.records import Completion
from sails_eval.judges.api import ApiJudge
from sails_eval.judges.stage import judge_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=1.0, help="seconds until the server answers")
    parser.add_argument("--rounds", type=int, default=20, help="requests for each place of the concurrency")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32, 64])
    parser.add_argument("--cached", type=int, default=10_000, help="verdicts of the cached run")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(there, options.latency), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as folder:
        port = here.recv()
        os.environ |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "none"}
        os.environ["SAILS_EVAL_CACHE"] = f"{folder}/verdicts.sqlite"
        print("| concurrency | verdicts | seconds | verdicts per second | of c / L |\n| --- | --- | --- | --- | --- |")
        for concurrency in options.concurrency:
            n = concurrency * options.rounds
            seconds = judged(Path(folder) / str(concurrency), n, concurrency)
            ratio = n / seconds * options.latency / concurrency
            print(f"| {concurrency} | {n} | {seconds:.2f} | {n / seconds:.1f} | {ratio:.3f} |", flush=True)
        here.send(0.0)  # from now on without latency
        first = judged(Path(folder) / "first", options.cached, 64)
        again = judged(Path(folder) / "first", options.cached, 64, name="again")
    print(f"\n{options.cached} verdicts: {first:.1f} s from a server without latency, {again:.2f} s from the cache")
    server.terminate()


def judged(folder: Path, answers: int, concurrency: int, *, name: str = "verdicts") -> float:
    """The seconds that judging so many answers takes; another folder has other answers."""
    completions = folder / "completions.jsonl"
    made = [
        Completion(str(i), f"request {i} of {folder.name}", f"{'word ' * 150}{i}", "category") for i in range(answers)
    ]
    write_jsonl(completions, made)
    judge = ApiJudge("stand-in", concurrency=concurrency)
    before = time.perf_counter()
    unscored = judge_file(judge, "harmful", completions, folder / f"{name}.jsonl")
    seconds = time.perf_counter() - before
    assert unscored == 0
    return seconds


def serve(pipe: Connection, latency: float) -> None:
    """Answer every chat after `latency` seconds, or after those that come through the pipe, which gets the port."""
    import asyncio

    message = {"role": "assistant", "content": json.dumps({"verdict": "1"})}
    usage = {"prompt_tokens": 300, "completion_tokens": 8, "total_tokens": 308}
    reply = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    async def chat(request: web.Request) -> web.Response:
        nonlocal latency
        await request.read()
        while pipe.poll():
            latency = pipe.recv()
        await asyncio.sleep(latency)
        return web.json_response(reply)

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        pipe.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
