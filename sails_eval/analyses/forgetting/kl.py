"""How far a tuned model's next-token distributions are from the base model's, on running text."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from sails_eval.analyses.forgetting.results import ReadingSize
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.texts import read_texts
from sails_eval.models.base import applied
from sails_eval.models.loaded import base_of


def kl_to_base(pair: Pair, checkpoint: Path | None, reading: ReadingSize) -> tuple[float, int]:
    """KL(base ‖ tuned) in nats per token of the pair's neutral texts, and the number of tokens.

    The mean over the tokens of all texts of Σ p·(log p − log q) over the vocabulary, p being what the bare base model
    says of the next token. `checkpoint` None is the base model itself, whose KL is exactly 0. Raises UserError where
    the texts cannot be read.
    """
    base, batches, expected = base_of(pair), _batches(pair, reading), _expected(pair, reading)
    total, tokens = 0.0, 0
    with applied(base, checkpoint) as model:
        for batch, log_p in zip(batches, expected, strict=True):
            log_p = log_p.to(model.device)
            divergence = (log_p.exp() * (log_p - log_probabilities(model, batch))).sum(-1)
            total += float(divergence.double().sum())
            tokens += len(divergence)
    return total / tokens, tokens


@lru_cache(maxsize=1)
def _batches(pair: Pair, reading: ReadingSize) -> list[list[list[int]]]:
    """Token ids of the first texts, up to about `reading.tokens`, in batches; behind BOS where the model has one."""
    assert pair.neutral is not None
    tokenizer, texts, seen = base_of(pair).tokenizer, [], 0
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for text in read_texts(pair.neutral, most=reading.tokens).texts:
        ids = [*start, *tokenizer(text, add_special_tokens=False)["input_ids"]][: reading.max_length]
        if seen < reading.tokens and len(ids) > 1:
            texts.append(ids)
            seen += len(ids) - 1
    if not texts:
        raise UserError(f"{pair.neutral}: no text of two tokens or more")
    return [texts[i : i + reading.batch_size] for i in range(0, len(texts), reading.batch_size)]


@lru_cache(maxsize=1)
def _expected(pair: Pair, reading: ReadingSize) -> list[torch.Tensor]:
    """What the bare base model says, for every batch; kept off the GPU."""
    return [log_probabilities(base_of(pair).model, batch).cpu() for batch in _batches(pair, reading)]


@torch.inference_mode()
def log_probabilities(model: Any, batch: Sequence[list[int]]) -> torch.Tensor:
    """Log-probabilities of what comes next at every token but each text's last: [tokens, vocabulary], float32."""
    ids = pad_sequence([torch.tensor(one) for one in batch], batch_first=True)
    mask = pad_sequence([torch.ones(len(one), dtype=torch.long) for one in batch], batch_first=True)
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    followed = mask[:, 1:].bool().to(logits.device)  # a token that another one follows
    result: torch.Tensor = logits[:, :-1][followed].float().log_softmax(-1)
    return result
