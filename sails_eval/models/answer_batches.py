"""How many prompts transformers answers at a time where the pair leaves that open.

It changes time and memory, and answers by rounding alone, so it is no part of what determines a run.
"""

from typing import Any

from sails_eval.core.device import ROOM
from sails_eval.core.pair import Pair

ANSWERS_ON_CPU, ANSWERS_ON_GPU = 64, 128
"""Beyond these a batch takes longer, and more memory, and gives no more tokens a second."""

LOGITS = 6
"""Bytes of a logit that is looked at: in single precision, and a copy in half."""


def kv_bytes_per_token(config: Any) -> int:
    """Keys and values of one token over all layers, in half precision; 0 of a model without attention."""
    if not getattr(config, "num_attention_heads", None):
        return 0
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * 2)


def width_of(pair: Pair) -> int:
    """Bytes of a weight, and of what is computed with it."""
    return 4 if pair.dtype == "float32" else 2


def bytes_of_answer(pair: Pair, config: Any, tokens: int) -> int:
    """What a prompt and its answer of `tokens` tokens together take: keys and values, and the logits of one token."""
    return tokens * kv_bytes_per_token(config) * width_of(pair) // 2 + LOGITS * int(config.vocab_size)


def bytes_of_choice(config: Any, tokens: int) -> int:
    """What a text of `tokens` tokens takes whose likelihood is asked for: the logits of all of them, twice."""
    return 2 * LOGITS * tokens * int(config.vocab_size)


def at_a_time(pair: Pair, *, each: int, parameters: int, memory: int, gpu: bool) -> int:
    """The pair's `eval_batch_size`, or as many as fit into `memory` bytes beside the weights: a power of two.

    `each` is what one takes, in bytes.
    """
    if pair.eval_batch_size is not None:
        return pair.eval_batch_size
    room = max(0, int(ROOM * memory) - width_of(pair) * parameters)
    most = min(room // max(each, 1), ANSWERS_ON_GPU if gpu else ANSWERS_ON_CPU)
    return 1 << max(0, most.bit_length() - 1)
