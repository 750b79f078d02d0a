"""A local server that speaks the OpenAI chat API, well or badly, as it is told."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

Reply = tuple[Any, ...]
"""A status, a body (JSON, or text or bytes to be sent as they are), and headers if any; or one of those below."""

DROP: Reply = (0, "")
"""Closes the connection."""
RESET: Reply = (0, "reset")
"""The same, so that the client sees an error."""
HANG: Reply = (0, "hang")
"""Nothing comes, and the connection stays."""
DRIP: Reply = (0, "drip")
"""A reply of which a byte comes every now and then, and never the last one."""


def says(content: Any, *, finish_reason: str = "stop", refusal: str | None = None, tokens: int = 0) -> Reply:
    message = {"role": "assistant", "content": content, "refusal": refusal}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens + 1}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return 200, body | ({"usage": usage} if tokens else {})


def fails(status: int, message: str = "bad", *, headers: dict[str, str] | None = None, **fields: str) -> Reply:
    return status, {"error": {"message": message, **fields}}, headers or {}


def redirects(to: str) -> Reply:
    """To another server, which gets what was asked where that is followed."""
    return 307, "", {"Location": to}


@cache
def bomb(megabytes: int) -> Reply:
    """A reply that is small as long as nobody unpacks it."""
    return 200, gzip.compress(bytes(megabytes * 2**20)), {"Content-Encoding": "gzip"}


class Endpoint(ThreadingHTTPServer):
    """Lists `models` and answers chats as `chat` says; keeps what it was asked, at which path and by whom."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.chat: Callable[[dict[str, Any]], Reply] = lambda body: says('{"verdict": "5"}')
        self.models: Reply = (200, {"object": "list", "data": [{"id": "grader", "object": "model"}]})
        self.content_type = "application/json"
        self.asked: list[dict[str, Any]] = []
        self.received: list[tuple[str, str | None]] = []
        self.stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [prompt_of(body) for body in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed or lost patience is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        understood = super().parse_request()
        if understood:
            self.server.received.append((self.path, self.headers["Authorization"]))
        return understood

    def do_GET(self) -> None:
        self._send(*self.server.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self._send(*self.server.chat(body))

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.close_connection = not status
        if not status:
            return self._misbehave(body)
        data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", self.server.content_type)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _misbehave(self, how: str) -> None:
        if how == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if how == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
        while how in ("hang", "drip") and not self.server.stopped.wait(0.02):
            if how == "drip":
                self.wfile.write(b" ")

    def log_message(self, *args: Any) -> None: ...


@contextmanager
def serving() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.stopped.set()
            server.shutdown()
            thread.join()


def prompt_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


PASSING: tuple[str, ...] = ("429", "429 after 1 s", "500", "drop", "slow", "truncated", "html", "schema", "no choices")
PASSING += ("reset", "hang", "drip", "redirect", "bomb", "huge")
"""Faults of one request, which the next one about the same answer need not have."""

LASTING: dict[str, tuple[Reply, str]] = {
    "filter": (says("", finish_reason="content_filter"), "the judge refused"),
    "cut": (says('{"verd', finish_reason="length"), "the judge's reply was cut off"),
    "menu": (says("Verdict: 7"), "the judge's reply is not one of the rubric's options"),
}
"""Faults that every request about the same answer has: the reply, and the reason that belongs to it."""


MENU = ("1", "2", "3", "4", "5", "broken")
"""What replies in mere text choose from."""


@dataclass
class Faulty:
    """Chats in which a share `rate` of the requests goes wrong, as `seed` decides for each prompt and attempt.

    A reply's grade depends on the prompt alone. `elsewhere` is where redirects lead. `served` counts, by prompt, the
    replies in which nothing went wrong.
    """

    rate: float
    seed: int = 0
    slow: float = 0.0
    latency: float = 0.0
    elsewhere: str = "http://127.0.0.1:9/v1"
    share_lasting: float = 0.2
    asked: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def lasting(self, prompt: str) -> str | None:
        """The fault that an answer always has, if any; a share `share_lasting` of `rate` has one."""
        draw = self._draw(prompt)
        return draw.choice(list(LASTING)) if draw.random() < self.rate * self.share_lasting else None

    def __call__(self, body: dict[str, Any]) -> Reply:
        prompt = prompt_of(body)
        with self._lock:
            self.asked[prompt] += 1
            draw = self._draw(prompt, self.asked[prompt])
        fault = draw.choice(PASSING) if draw.random() < self.rate else self.lasting(prompt)
        with self._lock:
            self.seen[fault or "none"] += 1
            self.served[prompt] += fault not in PASSING
        time.sleep(self.slow if fault == "slow" else self.latency)
        return LASTING[fault][0] if fault in LASTING else self._reply(fault, body)

    def _draw(self, *parts: Any) -> Random:
        return Random(f"{self.seed} {parts}")

    def _reply(self, fault: str | None, body: dict[str, Any]) -> Reply:
        prompt = prompt_of(body)
        schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
        menu = schema["properties"]["verdict"]["enum"] if schema else MENU
        form = '{{"verdict": "{}"}}' if schema else "I think.\nVerdict: {}"
        number = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % len(menu)
        good, wrong = (form.format(menu[i % len(menu)]) for i in (number, number + 1))
        reply = says(good, tokens=len(prompt) // 4)
        faults: dict[str | None, Reply] = {
            "429": fails(429, code="rate_limit_exceeded"),
            "429 after 1 s": fails(429, code="rate_limit_exceeded", headers={"Retry-After": "1"}),
            "500": fails(500),
            "drop": DROP,
            "truncated": (200, json.dumps(reply[1])[:-40]),
            "html": (200, f"<html>{wrong}</html>"),
            "schema": (200, {"choices": {"message": wrong}}),
            "no choices": (200, {"choices": []}),
            "reset": RESET,
            "hang": HANG,
            "drip": DRIP,
            "redirect": redirects(self.elsewhere),
            "bomb": bomb(16),
            "huge": (200, '{"choices": [{"message": {"content": ' + "9" * 5000 + "}}]}"),
        }
        return faults.get(fault, reply)
