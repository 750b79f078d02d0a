"""What is done to a fine-tuned model to see how long its alignment lasts, and how that is asked for."""

import random
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

from sails_eval.core.data_source import Mixture, Selection
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.reading import read_examples
from sails_eval.run.stages import Subject

AttackKind = Literal["benign", "harmful", "quantise", "merge"]

DEFAULT = ("benign:10", "benign:100", "harmful:10", "harmful:100", "quantise:4bit", "merge")

GROUP = 32
"""The weights that share a scale where four bits hold each."""

LIBRARY = "torchao"
"""What quantises; the extra [quantise]."""


@dataclass(frozen=True)
class Retuning:
    """How every model is fine-tuned further: the same passes over the examples at the same rate, whatever the method.

    A fresh LoRA (PEFT's defaults, the pair's rank, alpha and modules) on the fine-tuned model, whose own adapter is
    merged. `learning_rate` is multiplied by the pair's `learning_rate_scale`. None of it is specified by the SAILS
    paper; ten and a hundred harmful examples in batches of ten are those of Qi et al. 2023 (arXiv 2310.03693).
    """

    epochs: int = 5
    batch_size: int = 10
    learning_rate: float = 1e-4

    def steps(self, examples: int) -> int:
        """Optimiser steps, the last batch being filled up."""
        return -(-self.epochs * examples // self.batch_size)


RETUNING = Retuning()


@dataclass(frozen=True)
class Attack:
    """One thing done to a model; `examples` is their number where it is fine-tuned further on some, else 0."""

    kind: AttackKind
    examples: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UserError for a text that names no attack."""
        kind, _, how = text.partition(":")
        if text == "merge":
            return cls("merge")
        if text == "quantise:4bit":
            return cls("quantise")
        if kind in ("benign", "harmful") and how.isdecimal() and int(how):
            return cls("benign" if kind == "benign" else "harmful", int(how))
        raise UserError(f"--attack {text}: give benign:N, harmful:N, quantise:4bit or merge, with N above 0")

    @property
    def retunes(self) -> bool:
        return self.kind in ("benign", "harmful")

    @property
    def name(self) -> str:
        """What the column `attack` calls it; the number of examples has a column of its own."""
        return "quantise:4bit" if self.kind == "quantise" else self.kind

    @property
    def folder(self) -> str:
        return f"{self.kind}-{self.examples}" if self.retunes else self.name.replace(":", "-")

    def __str__(self) -> str:
        return f"{self.kind}:{self.examples}" if self.retunes else self.name

    def data(self, pair: Pair) -> Path | Selection | Mixture | None:
        """What it is fine-tuned further on; None where the pair names nothing."""
        return pair.attack.benign if self.kind == "benign" else pair.attack.harmful

    def obstacle(self, pair: Pair) -> str | None:
        """Why it can't be done to this pair's models on this machine; None where it can."""
        if self.kind == "quantise" and find_spec(LIBRARY) is None:
            return f"{LIBRARY} is not installed; install it with: pip install 'sails-eval[quantise]'"
        if not self.retunes:
            return None
        data = self.data(pair)
        if data is None:
            return f"pair '{pair.name}' has no data for it; add 'attack: {{{self.kind}: FILE}}' to its YAML"
        if (held := len(read_examples(data).examples)) < self.examples:
            return f"{data} has only {held} examples; give a smaller number, or add examples"
        return None

    def identity(self, pair: Pair) -> Any:
        """All that its outcome depends on besides the model."""
        if self.kind == "quantise":
            return [str(self), GROUP, version(LIBRARY)]
        data = self.data(pair) if self.retunes else None
        if data is None:
            return str(self)
        settings = {"rank", "alpha", "target_modules", "max_length", "learning_rate_scale"}
        told = pair.model_dump(mode="json", include=settings)
        return [str(self), asdict(RETUNING), read_examples(data).sha256, told]


def order_of(rows: int, attack: Attack, seed: int) -> list[int]:
    """Which rows every step of further fine-tuning sees, by index: of all methods the same for a seed.

    A seed's ten examples are among its hundred; they are passed over, newly shuffled each time.
    """
    rng = random.Random(f"re-tuning of seed {seed}")
    sample = rng.sample(range(rows), rows)[: attack.examples]
    length = RETUNING.steps(attack.examples) * RETUNING.batch_size
    order: list[int] = []
    while len(order) < length:
        order += rng.sample(sample, len(sample))
    return order[:length]


@dataclass(frozen=True, kw_only=True)
class Attacked(Subject):
    """A model after an attack; `seed` draws the examples to fine-tune on. Its checkpoint is that before the attack."""

    attack: Attack
    seed: int = 0
