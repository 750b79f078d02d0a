"""Engines behind HTTP, against a server that answers well or badly: the same answers, or an error that says why not."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.models import limits
from sails_eval.models.engines import openai as engine_module
from sails_eval.models.engines import remote
from sails_eval.models.engines.openai import OpenAIEngine
from sails_eval.tasks.answer import complete
from sails_eval.tasks.library import find_tasks
from tests.judges.fault_server import DRIP, DROP, HANG, RESET, Endpoint, Reply, bomb, fails, redirects, serving


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(limits, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(limits, "SHORTEST_ATTEMPT", 0.2)
    monkeypatch.setattr(remote, "LARGEST", 2**20)
    monkeypatch.setattr(remote.Served, "patience", 0.4)
    with serving() as server:
        yield server


def text(said: str) -> Reply:
    return 200, {"choices": [{"index": 0, "text": said}]}


def likelihoods(*tokens: Any) -> Reply:
    """Of the tokens of a prompt and of the one that was generated behind it."""
    top = [None, *({"a": one} for one in tokens[1:])]
    return 200, {"choices": [{"index": 0, "logprobs": {"token_logprobs": tokens, "top_logprobs": top}}]}


FAULTS: list[Reply] = [
    *(DROP, RESET, HANG, DRIP, bomb(2), fails(500), fails(429), (200, "<html>"), (200, {"choices": []})),
    *((200, "[" * 10**5), (200, {"choices": 10**400}), (200, {"choices": [{"index": 10**400, "text": "x"}]})),
    *((200, {"choices": [{"index": 0, "text": 10**400}]}), (200, {"choices": [{"index": 0, "text": ["x"]}]})),
]


def test_every_fault_passes_and_the_answers_are_those_of_a_server_without(
    endpoint: Endpoint, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote.Served, "patience", 30.0)
    monkeypatch.setattr(remote.Served, "longest", 1.0)
    asked: Counter[str] = Counter()

    def chat(body: dict[str, Any]) -> Reply:
        key = json.dumps(body["prompt"])
        asked[key] += 1
        number = list(asked).index(key)
        return FAULTS[number] if asked[key] == 1 else text(f"answer of {sum(body['prompt'][0])}")

    endpoint.chat = chat
    with OpenAIEngine(endpoint.url, testbed_pair).serving(None) as lm:
        answers = complete(lm, find_tasks()["testbed_safe"], "test", limit=len(FAULTS))
    assert {answer.response for answer in answers} == {f"answer of {sum(json.loads(key)[0])}" for key in asked}
    assert min(asked.values()) == 2 and len(asked) == len(FAULTS)


def test_likelihoods_are_those_of_the_continuations(endpoint: Endpoint, testbed_pair: Pair) -> None:
    endpoint.chat = lambda body: likelihoods(None, *[-0.5] * len(body["prompt"][0]))
    with OpenAIEngine(endpoint.url, testbed_pair).serving(None) as lm:
        (answer,) = complete(lm, find_tasks()["testbed_facts"], "test", limit=1)
    assert answer.value in (0, 1) and endpoint.asked[0]["echo"]


BROKEN: list[tuple[Any, ...]] = [(), (None, 10**400), (None, 5.0), (None, "x"), (None, None)]


@pytest.mark.parametrize("tokens", BROKEN)
def test_a_likelihood_that_is_none_is_no_answer(
    endpoint: Endpoint, testbed_pair: Pair, tokens: tuple[Any, ...]
) -> None:
    def chat(body: dict[str, Any]) -> Reply:
        first, *rest = tokens or (None,)
        return likelihoods(first, *rest * len(body["prompt"][0]))

    endpoint.chat = chat
    engine = OpenAIEngine(endpoint.url, testbed_pair)
    fault = "its reply is not of the form of the OpenAI API; finished answers are kept"
    with pytest.raises(UserError, match=fault), engine.serving(None) as lm:
        complete(lm, find_tasks()["testbed_facts"], "test", limit=1)


def test_prompts_go_to_the_named_server_only(endpoint: Endpoint, testbed_pair: Pair) -> None:
    engine = OpenAIEngine(endpoint.url, testbed_pair)
    with serving() as other:
        endpoint.chat = lambda body: redirects(other.url)
        fault = r"it redirects to http://127\.0\.0\.1/v1, and redirects are not followed"
        with pytest.raises(UserError, match=fault), engine.serving(None) as lm:
            complete(lm, find_tasks()["testbed_safe"], "test", limit=1)
        endpoint.models = redirects(other.url)
        with pytest.raises(UserError, match="can't be reached, or has no list of models: it redirects to"):
            engine.check((), {})
    assert other.received == []


@pytest.mark.parametrize("reply", [HANG, DRIP])
def test_a_list_of_models_that_never_ends_is_given_up(
    endpoint: Endpoint, testbed_pair: Pair, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "CALL_SECONDS", 0.1)
    endpoint.models = reply
    with pytest.raises(UserError, match="can't be reached, or has no list of models: timed out"):
        OpenAIEngine(endpoint.url, testbed_pair).check((), {})


def test_a_request_that_is_wrong_is_not_sent_again(endpoint: Endpoint, testbed_pair: Pair) -> None:
    endpoint.chat = lambda body: fails(400, "too long")
    engine = OpenAIEngine(endpoint.url, testbed_pair)
    with (
        pytest.raises(UserError, match=r"failed while answering: Error code: 400 - .*too long"),
        engine.serving(None) as lm,
    ):
        complete(lm, find_tasks()["testbed_safe"], "test", limit=1)
    assert len(endpoint.asked) == 1


def test_a_faulty_certificate_is_one_line(
    endpoint: Endpoint, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(UserError, match=r"^SSL_CERT_FILE=.*none\.pem: No such file or directory; correct or unset it$"):
        OpenAIEngine(endpoint.url, testbed_pair).check((), {})
