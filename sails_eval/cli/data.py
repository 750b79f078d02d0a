"""The command `sails-eval data`."""

import argparse
from collections import Counter
from collections.abc import Iterator
from typing import Any

from sails_eval.cli.common import add_command, add_group

ODD = 10
"""How many odd rows are listed, unless all are asked for."""

EXAMPLES = 3


def add(commands: Any) -> None:
    actions = add_group(commands, "data", "Show training data as a model sees it.")
    text = "Print a data set's card, its counts, three examples, and rows with problems."
    show = add_command(actions, "show", _show, text)
    text = "data set to show: a file, hf:ORG/NAME[/CONFIG][@REVISION][#SPLIT], or a YAML file"
    show.add_argument("data", metavar="DATA", help=text)
    text = "pair whose chat template the examples are shown in (default: show the messages as they are)"
    show.add_argument("--pair", metavar="NAME", help=text)
    text = f"list all rows with problems (skipped or changed when read), not just the first {ODD}"
    show.add_argument("--odd", action="store_true", help=text)


def _show(options: argparse.Namespace) -> None:
    from sails_eval.core.data_source import as_data

    for line in described(as_data(options.data), pair=options.pair, every=options.odd):
        print(line)


def described(source: Any, *, pair: str | None = None, every: bool = False) -> Iterator[str]:
    """The lines of `data show`. Raises UserError where the data or the pair cannot be read."""
    from sails_eval.core.data_source import Mixture
    from sails_eval.data.reading import pinned, read_examples

    source = pinned(source)
    for part in source.mix if isinstance(source, Mixture) else [source]:
        yield from _card(part)
    file = read_examples(source)
    pairs = [example for example in file.examples if example.rejected is not None]
    different = len({example.label for example in file.examples})
    yield f"rows: {file.rows:,}"
    yield f"examples: {len(file.examples):,}, {different:,} unique, {len(pairs):,} with a rejected answer"
    yield f"turns: {_counts(Counter(len(example.messages) + 1 for example in file.examples))}"
    groups = Counter(example.group for example in file.examples)
    if len(groups) > 1:
        yield f"groups: {_counts(groups)}"
    yield from file.left_out
    yield f"rows with problems: {len(file.odd)}"
    yield from (f"  {line}" for line in (file.odd if every else file.odd[:ODD]))
    if len(file.odd) > ODD and not every:
        yield f"  … and {len(file.odd) - ODD} more (--odd lists all)"
    rendered = _renderer(pair)
    step = max(1, len(file.examples) // EXAMPLES)
    for number, example in enumerate(file.examples[::step][:EXAMPLES], start=1):
        yield f"\n--- example {number} ({example.id})"
        yield from rendered(example)


def _card(part: Any) -> Iterator[str]:
    """Where a source lies and, of one on the hub, its licence."""
    from sails_eval.core.data_source import HUB, MixturePart, Selection
    from sails_eval.data.hub import fetch, parse_spec

    share = f" ({100 * part.share:g} %)" if isinstance(part, MixturePart) else ""
    yield f"data: {part}{share}"
    if isinstance(part, Selection) and part.data.startswith(HUB):
        fetched = fetch(parse_spec(part.data))
        yield f"commit: {fetched.commit}"
        yield f"licence: {fetched.card.get('license', 'not stated')}"


def _counts(counts: Counter[Any]) -> str:
    return ", ".join(f"{key} ({number:,})" for key, number in sorted(counts.items()))


def _renderer(pair: str | None) -> Any:
    """What makes lines of an example: its messages, or the text that a pair's model reads."""
    if pair is None:
        return _messages
    from sails_eval.core.pair import load_pair
    from sails_eval.models.base import load_tokenizer
    from sails_eval.models.chat import ending_of, render_answer, render_chat

    tokenizer = load_tokenizer(load_pair(pair))
    ending = ending_of(tokenizer)

    def rendered(example: Any) -> Iterator[str]:
        turns = [{"role": turn.role, "content": turn.content} for turn in example.messages]
        prompt = render_chat(tokenizer, turns)
        for name, answer in (("response", example.response), ("rejected", example.rejected)):
            if answer is not None:
                learnt = render_answer(tokenizer, turns, prompt, answer, ending)
                ids = tokenizer(prompt + learnt, add_special_tokens=False)["input_ids"]
                yield f"[{name}, {len(ids)} tokens; the model generates the text after ⟪]"
                yield f"{prompt}⟪{learnt}"

    return rendered


def _messages(example: Any) -> Iterator[str]:
    for turn in example.messages:
        yield f"[{turn.role}] {turn.content}"
    yield f"[response] {example.response}"
    if example.rejected is not None:
        yield f"[rejected] {example.rejected}"
