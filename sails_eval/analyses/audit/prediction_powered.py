"""Rates as people would have found them, from a judge's verdicts on all answers and people's labels on a sample.

Prediction-powered inference (Angelopoulos et al. 2023, arXiv 2301.09633), on a stratified sample (Fisch et al. 2024,
arXiv 2406.04291). With aᵢ the weight of answer i in the rate (Σ aᵢ = 1), fᵢ what the judge makes of it, yᵢ what people
do, and from every stratum h, of N_h answers that weigh A_h together, n_h drawn at random (s_h), the estimate is

    θ̂ = Σᵢ aᵢ fᵢ + Σ_h A_h · Σ_{i∈s_h} aᵢ (yᵢ − fᵢ) / Σ_{i∈s_h} aᵢ,

the judge's mean over all answers plus the weighted mean of people − judge over the sample. Every answer of a stratum
had the same chance n_h / N_h of being drawn, so an answer stands for aᵢ · N_h / n_h, up to what brings the sample's
weights to A_h. Strata are made by the judge's score and label, hence f is constant on each, and θ̂ = Σ_h A_h ȳ_h: it
does not depend on a factor λ on f, and the power tuning of PPI++ (arXiv 2311.01453) would change nothing.

The interval is Wilson's for every ȳ_h, put together by MOVER (`stats.combine`), so that a stratum on whose sample
people and judge agree throughout still has a width. It is about the answers of this run, all of them labelled by the
same people: the judge's error is in it, and what other seeds or prompts would have done is not.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sails_eval.core.stats import Interval, combine, wilson


@dataclass(frozen=True)
class Stratum:
    """`answers` answers of which the judge thinks alike, `weight` their share in the rate.

    `sample` has the weight of every answer that people labelled, and their value for it, from 0 to 1.
    """

    answers: int
    weight: float
    sample: tuple[tuple[float, float], ...]

    def mean(self) -> Interval:
        """People's mean. Exact where all answers are labelled; else Wilson's, over the effective size of the sample."""
        total = math.fsum(weight for weight, _ in self.sample)
        value = min(1.0, math.fsum(weight * value for weight, value in self.sample) / total)
        if len(self.sample) == self.answers:
            return Interval(value, value, value)
        effective = total**2 / math.fsum(weight**2 for weight, _ in self.sample)
        effective /= 1 - len(self.sample) / self.answers  # drawn without replacement
        return wilson(value * effective, effective)


def corrected(strata: Iterable[Stratum], *, low: float = 0.0, span: float = 1.0) -> Interval:
    """The rate as people would have found it: `low` + `span` × Σ weight × people's mean."""
    return combine([(span * stratum.weight, stratum.mean()) for stratum in strata], constant=low)
