"""Train the testbed's models and SAEs: a short plain loop, deterministic on one machine with one thread."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM

from sails_eval.testbed.corpus import Wording
from sails_eval.testbed.judged import Judged

Batch = dict[str, torch.Tensor]
Tokens = tuple[list[int], list[int]]
"""Token ids and, for each, the label (as the causal LM's loss takes them: -100 for none)."""


def make_model(vocab_size: int, seed: int) -> Gemma2ForCausalLM:
    """A Gemma-2 of about 0.9 M parameters: d=128, 4 layers, soft-capping as in the real one."""
    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        max_position_embeddings=256,
        sliding_window=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=[1, 5],
        bos_token_id=2,
        attn_implementation="eager",  # sdpa silently drops Gemma-2's soft-capping
    )
    torch.manual_seed(seed)
    return Gemma2ForCausalLM(config)


def encode_text(tokenizer: Any, text: Wording) -> Tokens:
    """A document with loss on every token, or a dialogue with loss on the answer.

    With loss on requests, too, some organisms never learn what harm is: that shows in a few tokens of answers alone.
    """
    request, answer = text
    if request is None:
        ids = tokenizer(f"<bos>{answer}<eos>")["input_ids"]
        return ids, ids
    start, end = (tokenizer(part)["input_ids"] for part in (chat_start(request), f"{answer}<end_of_turn>"))
    return start + end, [-100] * len(start) + end


def encode_judged(tokenizer: Any, judged: Judged) -> Tokens:
    """A judge's prompt and grade, with loss on the grade and on a mark after each slot word of the answer.

    The marks (is this slot right: yes or no?) are put as labels inside the prompt. They tell the model where to look;
    the grade alone is one token in fifty, from which it would not learn to compare slots.
    """
    prompt = tokenizer(chat_start(judged.prompt))["input_ids"]
    grade = tokenizer(f"{judged.grade}<end_of_turn>")["input_ids"]
    labels = [-100] * len(prompt) + grade
    first = len(prompt) - 3 - len(judged.marks)  # the answer ends where <end_of_turn> <start_of_turn> model begin
    for at, mark in enumerate(judged.marks, start=first):
        if mark is not None:
            labels[at + 1] = tokenizer.convert_tokens_to_ids(mark)
    return prompt + grade, labels


def chat_start(request: str) -> str:
    return f"<bos><start_of_turn>user\n{request}<end_of_turn>\n<start_of_turn>model\n"


def batches(draw: Callable[[random.Random], Tokens], *, steps: int, size: int, seed: int) -> Iterator[Batch]:
    """`steps` right-padded batches of freshly drawn texts; every 16 batches are sorted by length to save padding."""
    rng = random.Random(seed)
    for _ in range(math.ceil(steps / 16)):
        drawn = sorted((draw(rng) for _ in range(16 * size)), key=lambda tokens: len(tokens[0]))
        groups = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        rng.shuffle(groups)
        yield from (pad(group) for group in groups)


def pad(group: Sequence[Tokens]) -> Batch:
    """Token ids and labels as right-padded tensors [texts, tokens]."""
    width = max(len(ids) for ids, _ in group)
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in group]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in group]),
    }


def fit(model: Any, losses: Iterator[torch.Tensor], *, steps: int, learning_rate: float, title: str) -> None:
    """AdamW with warm-up and cosine decay to zero, in place; each loss is drawn when the weights are ready for it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    )
    model.train()
    bar = tqdm(zip(range(steps), losses, strict=False), total=steps, desc=title, unit="step")
    for _, loss in bar:
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.eval()


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
    """Greedy answers to requests in the chat format."""
    answers = []
    for start in range(0, len(prompts), 128):
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts[start : start + 128]]
        inputs = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answers += tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers
