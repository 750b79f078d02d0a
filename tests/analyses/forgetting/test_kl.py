"""KL to the base model on neutral text."""

from pathlib import Path

import pytest
import torch

from sails_eval.analyses.forgetting import kl as divergence
from sails_eval.analyses.forgetting.kl import kl_to_base, log_probabilities
from sails_eval.analyses.forgetting.results import ReadingSize
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.texts import read_texts
from sails_eval.models.base import Base, applied

FEW = ReadingSize(tokens=80, batch_size=4)


@pytest.fixture
def pair(testbed_pair: Pair, testbed_base: Base, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(divergence, "base_of", lambda pair: testbed_base)
    divergence._batches.cache_clear()
    divergence._expected.cache_clear()
    return testbed_pair


@pytest.fixture
def adapter(testbed_pair: Pair) -> Path:
    """The reference that ships with the testbed, which is an adapter."""
    return Path(testbed_pair.references["testbed-preference"])


def test_the_base_model_is_exactly_where_it_was(pair: Pair) -> None:
    kl, tokens = kl_to_base(pair, None, FEW)
    assert kl == 0.0 and FEW.tokens <= tokens < FEW.tokens + 20


def test_the_divergence_is_that_of_single_texts_without_padding(pair: Pair, adapter: Path, testbed_base: Base) -> None:
    kl, tokens = kl_to_base(pair, adapter, FEW)
    assert pair.neutral is not None
    bos, total, seen = testbed_base.tokenizer.bos_token, 0.0, 0
    for text in read_texts(pair.neutral, most=200).texts:
        if seen == tokens:
            break
        ids = testbed_base.tokenizer(f"{bos}{text}", add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            p = testbed_base.model(ids).logits[0, :-1].double().log_softmax(-1)
            with applied(testbed_base, adapter) as model:
                q = model(ids).logits[0, :-1].double().log_softmax(-1)
        total += float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum"))
        seen += ids.shape[1] - 1
    assert seen == tokens
    assert kl == pytest.approx(total / tokens, rel=1e-4) and kl > 0.01
    assert kl_to_base(pair, adapter, FEW)[0] == kl  # the same every time


def test_every_token_that_another_follows_is_counted(testbed_base: Base) -> None:
    found = log_probabilities(testbed_base.model, [[2, 7, 8, 9], [2, 7]])
    assert found.shape == (4, testbed_base.model.config.vocab_size)
    assert found.exp().sum(-1).tolist() == pytest.approx([1.0] * 4)


def test_texts_are_rows_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"prompt": "three"}\n')
    assert read_texts(path, most=2).texts == ("one", "two")
    with pytest.raises(UserError, match=r"texts.jsonl:3: field 'text' is missing"):
        read_texts(path, most=3)
    path.write_text("\n")
    with pytest.raises(UserError, match="no rows; expected rows with a field 'text'"):
        read_texts(path, most=3)


def test_texts_of_a_token_are_none(pair: Pair, testbed_base: Base, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "."}\n')
    kl, tokens = kl_to_base(pair.model_copy(update={"neutral": path}), None, FEW)
    assert (kl, tokens) == (0.0, 1)  # behind BOS
