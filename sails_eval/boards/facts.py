"""What a leaderboard says besides scores: of each row, and of where it comes from."""

from dataclasses import dataclass

from sails_eval.boards.table import EXPLORATORY


@dataclass(frozen=True)
class RowFacts:
    """What a leaderboard row says besides its scores. `seeds` is 0 without training.

    `model` names all organisms, `trainable_pct` is a percentage of the model's parameters, `train_tokens` what one
    cell was trained on, `sae_tokens` what the SAEs of its initialisation were trained on (None: unknown),
    `tuning_trials` the number of learning rates tried, times checkpoints, `labelled_examples` and `rejected_answers`
    those of the cell that saw the most, `further_examples` the labelled ones that its training sample did not hold,
    `contrast_examples` those that its initialisation looked at, in texts of `contrast_tokens` tokens. `saw` is what
    else that looked at, in words. `warnings` are clauses without a semicolon.
    """

    model: str
    sae: str = ""
    seeds: int = 0
    trainable_params: int = 0
    trainable_pct: float = 0.0
    train_tokens: int = 0
    sae_tokens: int | None = 0
    tuning_trials: int = 0
    labelled_examples: int = 0
    rejected_answers: int = 0
    further_examples: int = 0
    contrast_examples: int = 0
    contrast_tokens: int = 0
    saw: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """What the method knew that others may not have."""
        seen = {
            f"{self.rejected_answers} rejected answers": self.rejected_answers,
            f"{self.contrast_examples} labelled examples ({self.contrast_tokens:,} tokens) before training": (
                self.contrast_examples
            ),
            f"{self.further_examples} labelled examples beyond its training sample": self.further_examples,
            f"{self.labelled_examples} labelled examples in total": any(
                (self.rejected_answers, self.contrast_examples, self.further_examples)
            ),
        }
        told = ", ".join([*(what for what, n in seen.items() if n), *self.saw])
        others = "rows without this note saw only the chosen answers of their training sample"
        return (f"saw {told} ({others})",) if told else ()


@dataclass(frozen=True)
class Provenance:
    """Where a leaderboard comes from: judge, day (YYYY-MM-DD), version of this package, name of the run.

    `agreement` says how far the judge agrees with the truth, where that is known, `protocol` by which one it was made:
    its hash, if that was fixed before anything was tested.
    """

    judge: str
    date: str
    version: str
    run: str
    agreement: str = ""
    protocol: str = EXPLORATORY
