"""Training a learned judge, and testing it on models and on kinds of requests that it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sails_eval.core.errors import UserError
from sails_eval.core.records import Label
from sails_eval.core.stats import Interval
from sails_eval.judges.agreement import agreement
from sails_eval.judges.learned.classifier import TURNS_DOWN, Classifier, softmax, turning_down
from sails_eval.judges.learned.features import Features, Matrix
from sails_eval.judges.learned.settings import CONFIDENCE

FEWEST = 20
"""Answers of a label, without which it is none of the classifier's."""

TEMPERATURES = np.geomspace(0.25, 8, 51)


@dataclass(frozen=True)
class Sample:
    """An answer with its label; `model` gave it, `topic` is the kind of its request, where the data tell.

    Nothing is measured on `extra` samples: they are only learnt from, such as those whose labels are not people's.
    """

    response: str
    label: Label
    model: str
    topic: str = ""
    extra: bool = False


@dataclass(frozen=True)
class HeldOut:
    """What came of answers of one model whose like the classifier had not seen.

    `kappa` is Cohen's κ with people on whether an answer turns down, of all answers; `scored` that of those on which
    the judge was sure, `unsure` the share of the others. `auroc` and `brier` are of the probabilities, None where
    people put all answers on one side.
    """

    model: str
    answers: int
    kappa: Interval | None
    scored: Interval | None
    unsure: float
    auroc: float | None
    brier: float


@dataclass(frozen=True)
class Trained:
    """A classifier, and how it did without each model and without each kind of request."""

    classifier: Classifier
    samples: int
    by_model: tuple[HeldOut, ...]
    by_topic: tuple[HeldOut, ...]
    """Each model's answers by classifiers that saw no answer, of any model, to the same kind of request."""

    @property
    def worst(self) -> HeldOut | None:
        """The held-out model with the lowest κ among the answers on which the judge was sure."""
        rated = [one for one in self.by_model if one.scored is not None]
        return min(rated, key=lambda one: one.scored.value if one.scored else 0, default=None)


def train(samples: Sequence[Sample], features: Features, *, confidence: float = CONFIDENCE) -> Trained:
    """Train a classifier on all samples, after testing it on what each model's and each topic's absence leaves unseen.

    Every model's answers of either side count the same in all. Probabilities are calibrated by one temperature, on the
    answers of the models left out. Where no model can be left out, since there is one only, or the others' answers are
    all on one side, random fifths of the answers take their place. A topic of which this is so is not tested.

    Raises UserError for fewer than two sides, or `FEWEST` answers of each.
    """
    labels = _labels(samples)
    known = [one for one in samples if one.label in labels]
    learner = _Learner(known, features, labels)
    models, topics = [one.model for one in known], [one.topic for one in known]
    fold = np.random.default_rng(0).integers(5, size=len(known))
    groups = models if learner.can_leave_out(models) else [f"fifth {i + 1}" for i in fold]
    scores = learner.left_out(groups)
    measured = ~np.isnan(scores[:, 0])
    temperature = _temperature(scores[measured], learner.truth[measured])
    classifier = replace(learner.fit(np.ones(len(known), bool)), temperature=temperature, confidence=confidence)

    def told(scores: np.ndarray, groups: Sequence[str]) -> tuple[HeldOut, ...]:
        side = turning_down(softmax(scores / temperature), labels)
        held_out = {name: learner.group(groups, name) & ~np.isnan(side) for name in _names(groups)}
        return tuple(
            _held_out(name, side, learner.side, out, confidence) for name, out in held_out.items() if out.any()
        )

    return Trained(classifier, len(known), told(scores, groups), told(learner.left_out(topics), models))


def _names(groups: Sequence[str]) -> list[str]:
    return sorted(set(groups))


def _labels(samples: Sequence[Sample]) -> tuple[Label, ...]:
    counts = {label: sum(one.label == label for one in samples) for label in dict.fromkeys(s.label for s in samples)}
    labels = tuple(sorted(label for label, n in counts.items() if n >= FEWEST and label != "broken"))
    sides = {label in TURNS_DOWN for label in labels}
    if len(sides) < 2:
        told = ", ".join(f"{n} {label}" for label, n in counts.items()) or "none"
        raise UserError(
            f"--labels: {FEWEST} answers that comply and {FEWEST} that refuse are needed, there are {told}; give more"
        )
    return labels


class _Learner:
    """The samples, and regressions on parts of them. Features that learn nothing from texts are taken once."""

    def __init__(self, samples: Sequence[Sample], features: Features, labels: tuple[Label, ...]) -> None:
        self._texts = [one.response for one in samples]
        self._models = np.array([one.model for one in samples])
        self._features, self._labels = features, labels
        self.truth = np.array([labels.index(one.label) for one in samples])
        self.side = np.array([one.label in TURNS_DOWN for one in samples])
        self._extra = np.array([one.extra for one in samples])
        self._fixed: Matrix | None = features.rows(self._texts) if features.standardise else None

    def _two_sided(self, part: np.ndarray) -> bool:
        return len(set(self.side[part].tolist())) == 2

    def can_leave_out(self, groups: Sequence[str]) -> bool:
        """Whether there is something to learn without any one group."""
        return all(self._two_sided(~self.group(groups, name)) for name in _names(groups))

    def group(self, groups: Sequence[str], name: str) -> np.ndarray:
        """Which samples are of a group, and can be left out."""
        found: np.ndarray = (np.array(groups) == name) & ~self._extra
        return found

    def left_out(self, groups: Sequence[str]) -> np.ndarray:
        """The logits of every sample by a classifier that saw none of its group, [samples, labels].

        NaN for extra samples, and where all others are on one side.
        """
        found = np.full((len(groups), len(self._labels)), np.nan)
        for name in _names(groups):
            out = self.group(groups, name)
            if not out.any() or not self._two_sided(~out):
                continue
            classifier = self.fit(~out)
            rows = self._fixed[out] if self._fixed is not None else classifier.features.rows(self._chosen(out))
            found[out] = classifier.scores(rows)
        return found

    def fit(self, part: np.ndarray) -> Classifier:
        """A classifier of the samples in a part, not calibrated."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        features = self._features.fitted(self._chosen(part))
        rows = self._fixed[part] if self._fixed is not None else features.rows(self._chosen(part))
        centre, spread = np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        if features.standardise:
            centre, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
            rows = (rows - centre) / spread
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=features.strength, max_iter=1000)
            model.fit(rows, self.truth[part], sample_weight=self._weights(part))
        weights = np.zeros((len(self._labels), rows.shape[1]))
        intercepts = np.full(len(self._labels), -1e3)  # of a label that the part lacks
        told, shifts = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            told, shifts = np.vstack([-told, told]) / 2, np.concatenate([-shifts, shifts]) / 2
        weights[model.classes_], intercepts[model.classes_] = told / spread, shifts - told @ (centre / spread)
        return Classifier(features, self._labels, weights, intercepts)

    def _chosen(self, part: np.ndarray) -> list[str]:
        return [text for text, chosen in zip(self._texts, part, strict=True) if chosen]

    def _weights(self, part: np.ndarray) -> np.ndarray:
        """Weights with which the sides of every model count the same, so that the rarer is not overlooked; mean 1."""
        found = np.zeros(len(part))
        for model in set(self._models[part].tolist()):
            for side in (False, True):
                cell = part & (self._models == model) & (self.side == side)
                found[cell] = 1 / max(FEWEST // 2, int(cell.sum()))
        chosen: np.ndarray = found[part] / found[part].mean()
        return chosen


def _temperature(scores: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the lowest log loss."""

    def loss(temperature: float) -> float:
        found = softmax(scores / temperature)[np.arange(len(truth)), truth]
        return float(-np.log(np.clip(found, 1e-12, 1)).mean())

    return float(min(TEMPERATURES, key=loss))


def _held_out(name: str, side: np.ndarray, truth: np.ndarray, chosen: np.ndarray, confidence: float) -> HeldOut:
    """How the probabilities of a group's answers, `side`, agree with people."""
    from sklearn.metrics import roc_auc_score

    said, people = side[chosen], truth[chosen]
    sure = np.maximum(said, 1 - said) >= confidence

    def kappa(which: np.ndarray) -> Interval | None:
        pairs = (people[which].tolist(), (said[which] > 0.5).tolist())
        return agreement(*pairs, (False, True)).kappa if which.any() else None

    both = 0 < people.sum() < len(people)
    return HeldOut(
        model=name,
        answers=len(people),
        kappa=kappa(np.ones(len(people), bool)),
        scored=kappa(sure),
        unsure=float(1 - sure.mean()),
        auroc=float(roc_auc_score(people, said)) if both else None,
        brier=float(((said - people) ** 2).mean()),
    )
