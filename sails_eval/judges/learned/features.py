"""What a learned judge sees of an answer: n-grams of its opening, or what a small language model makes of it."""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.fetchable import fetchables, located
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.models.hub import fetch

log = logging.getLogger(__name__)

Matrix = Any
"""Features of answers, [answers, width]: a dense array of float32, or a sparse matrix in rows."""

Arrays = Mapping[str, np.ndarray]


class Features(ABC):
    """How answers become rows of numbers. `strength` and `standardise` are those of the regression on them."""

    kind: ClassVar[str]
    strength: ClassVar[float]
    """The inverse of the penalty on the weights, scikit-learn's C."""
    standardise: ClassVar[bool]

    @abstractmethod
    def fitted(self, texts: Sequence[str]) -> Self:
        """The same features, with whatever they take from the texts that are learnt from."""

    @abstractmethod
    def rows(self, texts: Sequence[str]) -> Matrix:
        """One row for each answer."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What is kept as JSON, besides `arrays`."""

    def arrays(self) -> Arrays:
        """What is kept as tensors."""
        return {}

    @property
    def identity(self) -> str:
        """A hash of what the features depend on besides what is kept; empty where nothing is."""
        return ""

    def check(self) -> None:  # noqa: B027  # only a model can be missing
        """Raise UserError where the features cannot be had."""


OPENING = 300
"""Characters that n-grams are taken from: what an answer does, it mostly does at its beginning."""

MOST = 6_000
"""N-grams of words, and as many of characters."""


def opening(text: str) -> str:
    """The beginning of an answer as n-grams see it: small letters, plain apostrophes, single spaces."""
    return re.sub(r"\s+", " ", text.strip().lower().translate(str.maketrans("’‘`´", "''''")))[:OPENING]


@dataclass(frozen=True)
class Ngrams(Features):
    """TF-IDF of n-grams: one to three words, and two to five characters within words."""

    kind = "ngrams"
    strength = 3.0
    standardise = False

    vocabularies: tuple[tuple[str, ...], ...] = ((), ())
    idf: tuple[tuple[float, ...], ...] = ((), ())

    def _vectorizers(self) -> list[Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second

        kept = [list(terms) or None for terms in self.vocabularies]
        how: list[dict[str, Any]] = [
            {"ngram_range": (1, 3), "token_pattern": r"[\w']+", "min_df": 3},
            {"ngram_range": (2, 5), "analyzer": "char_wb", "min_df": 5},
        ]
        made = [
            TfidfVectorizer(sublinear_tf=True, max_features=MOST, vocabulary=terms, dtype=np.float32, **options)
            for terms, options in zip(kept, how, strict=True)
        ]
        for one, weights in zip(made, self.idf, strict=True):
            if weights:
                one.idf_ = np.array(weights, dtype=np.float32)
        return made

    def fitted(self, texts: Sequence[str]) -> Self:
        """Raises UserError where the texts have too few n-grams in common."""
        made = [one.set_params(vocabulary=None) for one in self._vectorizers()]
        with as_user_error("the labelled answers have nothing in common", "give more of them"):
            for one in made:
                one.fit([opening(text) for text in texts])
        return replace(
            self,
            vocabularies=tuple(tuple(one.get_feature_names_out()) for one in made),
            idf=tuple(tuple(float(weight) for weight in one.idf_) for one in made),
        )

    def rows(self, texts: Sequence[str]) -> Matrix:
        from scipy.sparse import hstack

        openings = [opening(text) for text in texts]
        return hstack([one.transform(openings) for one in self._vectorizers()]).tocsr()

    def settings(self) -> dict[str, Any]:
        return {"vocabularies": self.vocabularies}

    def arrays(self) -> Arrays:
        return {f"idf_{i}": np.array(weights, dtype=np.float32) for i, weights in enumerate(self.idf)}


LEAD = "Answer:\n"
"""What an answer stands behind. A model's first token is like no other (its norm is a hundred times as large), and is
not to be one of the answer's."""


@dataclass(frozen=True)
class HiddenStates(Features):
    """The mean residual stream after a layer of a causal language model over an answer's first tokens.

    `model` is what `models fetch` knows, a folder, or a hub id. float32 on a CPU, where the last digits depend on the
    batch.
    """

    kind = "hidden"
    strength = 0.003
    standardise = True

    model: str
    layer: int
    tokens: int = 56
    sha256: str = ""
    """Of the model that the judge was trained on. Other weights of the same name, such as the hub's beside those of a
    GGUF file, are another judge with a warning."""

    def fitted(self, texts: Sequence[str]) -> Self:
        return replace(self, sha256=self.identity)

    @cached_property
    def folder(self) -> Path:
        """Where the model lies. Raises UserError where it can't be had."""
        known = fetchables().get(self.model)
        fix = f"fetch it: {known.command}" if known else "give its folder, or fetch it from the hub"
        with as_user_error(f"the judge's model '{self.model}' is not here", fix):
            return fetch(located(self.model))

    @cached_property
    def identity(self) -> str:
        files = sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("tokenizer*.json")])
        return digest([of_path(file) for file in files])

    def check(self) -> None:
        if self.sha256 and self.identity != self.sha256:
            log.warning(
                "the judge was trained on other weights of '%s' than those in %s: calibrate it before you rely on it",
                self.model,
                self.folder,
            )

    def settings(self) -> dict[str, Any]:
        return {"model": self.model, "layer": self.layer, "tokens": self.tokens, "sha256": self.sha256}

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)

    @cached_property
    def _network(self) -> Any:
        """The model as far as the layer."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import logging

        depth = AutoConfig.from_pretrained(self.folder, trust_remote_code=False).get_text_config().num_hidden_layers
        if not 1 <= self.layer <= depth:
            raise UserError(f"layer {self.layer}: model '{self.model}' has {depth} layers; give one of 1 to {depth}")
        told = logging.get_verbosity()
        logging.set_verbosity_error()  # of the weights of the other layers
        try:
            load = AutoModelForCausalLM.from_pretrained
            model = load(self.folder, num_hidden_layers=self.layer, dtype=torch.float32, trust_remote_code=False)
        finally:
            logging.set_verbosity(told)
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def rows(self, texts: Sequence[str]) -> Matrix:
        """Batches are formed by length over all texts: equal calls, equal rows."""
        lead = self._tokenizer(LEAD).input_ids
        ids = [self._tokenizer(text.strip(), add_special_tokens=False).input_ids[: self.tokens] for text in texts]
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        found: list[Any] = [None] * len(ids)
        for start in range(0, len(order), 16):
            batch = order[start : start + 16]
            for i, row in zip(batch, self._means(lead, [ids[i] or lead[-1:] for i in batch]), strict=True):
                found[i] = row
        return np.array(found, dtype=np.float32)

    def _means(self, lead: list[int], answers: Sequence[list[int]]) -> np.ndarray:
        """The means of a batch, [answers, d_model]."""
        import torch

        from sails_eval.models.layers import decoder_layers

        width = max(map(len, answers))
        padded = [[*lead, *ids, *[0] * (width - len(ids))] for ids in answers]
        inside = torch.tensor([[0] * len(lead) + [1] * len(ids) + [0] * (width - len(ids)) for ids in answers])
        streams: list[Any] = []

        def keep(layer: Any, given: Any, output: Any) -> None:
            streams.append(output[0] if isinstance(output, tuple) else output)

        hook = decoder_layers(self._network)[-1].register_forward_hook(keep)
        try:
            with torch.inference_mode():  # what pads is behind, where causal attention does not see it
                self._network(input_ids=torch.tensor(padded, device=self._network.device))
        finally:
            hook.remove()
        stream, mask = streams[0].float().cpu(), inside[..., None].float()
        means: np.ndarray = ((stream * mask).sum(1) / mask.sum(1)).numpy()
        return means


def features_from(kind: str, settings: Mapping[str, Any], arrays: Arrays) -> Features:
    """The features that were kept. Raises KeyError or TypeError for what is none."""
    if kind == Ngrams.kind:
        vocabularies = tuple(tuple(terms) for terms in settings["vocabularies"])
        idf = tuple(tuple(arrays[f"idf_{i}"].tolist()) for i in range(len(vocabularies)))
        return Ngrams(vocabularies, idf)
    return HiddenStates(**settings)
