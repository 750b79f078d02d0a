"""How much of a known subspace the settings of SAILS recover, beside direct estimators on the same texts.

    python benchmarks/synthetic_dictionaries.py    # about a minute of CPU time

A stream of width d is made of features along random directions, each on at few tokens but for `DENSE` ones, which are
on at all and vary a lot. On aligned answers `TRUE` of them are on more often, and these span what is to be found.
Dictionaries, and what is special about the stream:

    perfect      every feature has its direction and is read exactly
    calm         the same, and none is dense: what varies between texts is little
    noisy        directions have a cosine of 0.8 with the true ones, and are read along themselves above a threshold,
                 so that others leak in
    split        a true feature comes in `PARTS` forms, each with a direction a little of its own and a feature for it
    absorbed     half the time a true feature comes with one of `PARTS` others; then one for both is on, and not its own
    distracting  `DISTRACTORS` features that are not to be found differ as well, each half as much
    correlated   seven times in ten a true feature brings on one that is not to be found

Of every basis, cut at the rank or filled up at random, two shares are printed, from 0 to 1, means over worlds.
*Written* is ‖UᵀH‖² / `TRUE`: how much of the true subspace writers start from. *Read* is the share of the true
features' variance that is linear in Uᵀx, with all others varying: what readers start from. Encoder directions are those
of the least squared error of an infinite sample; a trained SAE's fall short of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import normalize

from sails_eval.core.recipe import load_recipe
from sails_eval.methods import Material
from sails_eval.methods.sails import SAILS, at_rank, bases_of, choose_features, feature_differences, scored
from sails_eval.methods.subspace.activations import moments
from sails_eval.methods.subspace.basis import complete_basis, orthonormal_basis
from sails_eval.methods.subspace.recovery import overlap

TRUE, DENSE, DISTRACTORS, PARTS = 4, 16, 12, 8
TOKENS = 8
"""Of each answer, whose mean is looked at."""

WIDTHS, RANKS, TEXTS = (128, 2304), (8, 16), (8, 32)
"""Of the stream, of the adapter, and how many pairs of answers there are: a small training sample has about eight."""

DICTIONARIES = ("perfect", "calm", "noisy", "split", "absorbed", "distracting", "correlated")

VARIANTS: dict[str, dict[str, Any]] = {
    "`sails`": {},
    "`weights: none`": {"weights": "none"},
    "`variance: 0.8`": {"variance": 0.8},
    "`k: rank` (`sails-topr`)": {"k": "rank"},
    "`score: abs`": {"score": "abs"},
    "`score: abs`, `k: rank`": {"score": "abs", "k": "rank"},
    "`score: positive` (`sails-signed`)": {"score": "positive"},
    "`score: relative`": {"score": "relative"},
    "`readers: encoder` (`sails-encoder`)": {"readers": "encoder"},
    "`sails-literal`": load_recipe("sails-literal").settings,
}
"""What is unlike the default of SAILS in each row."""

PRESENT = {"split": (0.5, 1.0), "absorbed": (1.0, 0.5)}
"""How much of a part comes with a true feature, and how often."""


@dataclass(frozen=True)
class World:
    """Texts of known make, and a dictionary of them.

    `streams` and `features` hold the mean of each text's tokens on either side, [texts, d] and [texts, d_sae]; `sae`
    has the directions; `covariance` is that of single streams [d, d], `with_true` theirs with the true features
    [d, TRUE], whose variances are in `variance`; `truth` has orthonormal columns [d, TRUE].
    """

    streams: Mapping[str, torch.Tensor]
    features: Mapping[str, torch.Tensor]
    sae: Any
    covariance: torch.Tensor
    with_true: torch.Tensor
    variance: torch.Tensor
    truth: torch.Tensor


class Stream:
    """What a world's tokens are made of: features, and parts that come with the true ones, behind them."""

    def __init__(self, dictionary: str, d: int, generator: torch.Generator) -> None:
        self.dictionary, self.d, self.generator = dictionary, d, generator
        self.n = 4 * d if d < 1000 else 3072
        self.noise = 0.5 / d**0.5
        self.dense = 0 if dictionary == "calm" else DENSE
        self.part, self.often = PRESENT.get(dictionary, (1.0, 0.0))
        self.directions = normalize(torch.randn(self.n + TRUE * PARTS, d, generator=generator), dim=1)
        self.special = [*range(TRUE + DISTRACTORS), *range(self.n, self.n + TRUE * PARTS)]

    def amounts(self, tokens: int, *, aligned: bool) -> torch.Tensor:
        """How much there is of everything at each token, [tokens, n + TRUE × PARTS]."""

        def drawn(width: int) -> torch.Tensor:
            return torch.rand(tokens, width, generator=self.generator)

        found = (drawn(self.n) < 16 / self.n) * -torch.log(drawn(self.n))
        if self.dense:
            found[:, -DENSE:] = 4 + 2 * torch.randn(tokens, DENSE, generator=self.generator)
        if aligned:
            found[:, :TRUE] += (drawn(TRUE) < 0.3) * (1 + drawn(TRUE))
            others = slice(TRUE, TRUE + DISTRACTORS)
            if self.dictionary == "distracting":
                found[:, others] += 0.5 * (drawn(DISTRACTORS) < 0.3) * (1 + drawn(DISTRACTORS))
        if self.dictionary == "correlated":
            found[:, TRUE : 2 * TRUE] += (drawn(TRUE) < 0.7) * (found[:, :TRUE] > 0) * (1 + drawn(TRUE))
        which = torch.nn.functional.one_hot((PARTS * drawn(TRUE)).long(), PARTS)
        parts = which * ((drawn(TRUE) < self.often) * found[:, :TRUE])[..., None]
        return torch.cat([found, self.part * parts.flatten(1)], dim=1)

    def streams(self, amounts: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(amounts), self.d, generator=self.generator)
        found: torch.Tensor = amounts @ self.directions + self.noise * noise
        return found

    def features(self, amounts: torch.Tensor) -> torch.Tensor:
        """What an exact dictionary, which has a feature for a true one with its part, says of the amounts."""
        found, parts = amounts[:, : self.n], amounts[:, self.n :] / self.part
        if not self.often:
            return found
        alone = found[:, :TRUE] - parts.view(-1, TRUE, PARTS).sum(-1)
        return torch.cat([alone, found[:, TRUE:], parts], dim=1)

    @property
    def decoder(self) -> torch.Tensor:
        """Its directions, [d_sae, d]."""
        if not self.often:
            return self.directions[: self.n]
        parts = self.directions[self.n :].view(TRUE, PARTS, self.d)
        both = normalize(self.directions[:TRUE, None] + self.part * parts, dim=2)
        return torch.cat([self.directions[: self.n], both.flatten(0, 1)])

    def covariance(self) -> torch.Tensor:
        """Of the amounts, [all, all], half of the tokens being aligned; of what is drawn alone it is a formula."""
        p = 16 / self.n
        alone = torch.full((len(self.directions),), 2 * p - p * p)
        alone[self.n - self.dense : self.n] = 4
        sample = torch.cat([self.amounts(2000, aligned=aligned)[:, self.special] for aligned in (True, False)])
        found, index = alone.diag(), torch.tensor(self.special)
        found[index[:, None], index] = torch.cov(sample.T)
        return found


def world(dictionary: str, d: int, seed: int) -> World:
    """A world of one kind of dictionary."""
    generator = torch.Generator().manual_seed(seed)
    stream, tokens = Stream(dictionary, d, generator), max(TEXTS) * TOKENS
    made = {side: stream.amounts(tokens, aligned=side == "aligned") for side in ("aligned", "unaligned")}
    streams = {side: stream.streams(amounts) for side, amounts in made.items()}
    covariance = stream.covariance()
    with_streams = stream.directions.T @ covariance  # [d, all]
    of_streams = with_streams @ stream.directions + stream.noise**2 * torch.eye(d)
    if dictionary == "noisy":
        astray = normalize(torch.randn(stream.n, d, generator=generator), dim=1)
        decoder = encoder = normalize(0.8 * stream.decoder + 0.6 * astray, dim=1)
        read = {side: x @ encoder.T for side, x in streams.items()}
        features = {side: values * (values > 0.5) for side, values in read.items()}
    else:
        features, decoder = {side: stream.features(amounts) for side, amounts in made.items()}, stream.decoder
        encoder = torch.linalg.solve(of_streams, stream.features(with_streams).contiguous()).T
    return World(
        {side: means(x) for side, x in streams.items()},
        {side: means(x) for side, x in features.items()},
        SimpleNamespace(W_dec=decoder, W_enc=encoder.T),
        of_streams,
        with_streams[:, :TRUE],
        covariance.diagonal()[:TRUE],
        torch.linalg.qr(stream.directions[:TRUE].T).Q,
    )


def means(tokens: torch.Tensor) -> torch.Tensor:
    """Of tokens [texts × TOKENS, width] each text's mean."""
    return tokens.view(-1, TOKENS, tokens.shape[1]).mean(1)


def bases(one: World, texts: int, rank: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Every row's name, with the bases that writers and readers would start from, as wide as the rank."""
    aligned, unaligned = (one.features[side][:texts] for side in ("aligned", "unaligned"))
    rows = {(0, "aligned"): aligned, (0, "unaligned"): unaligned, (0, "difference"): aligned - unaligned}
    differences = feature_differences(moments([rows]), 0)

    def whole(basis: torch.Tensor) -> torch.Tensor:
        return complete_basis(basis, rank, fill="random", seed="0")

    for name, given in VARIANTS.items():
        settings = at_rank(SAILS.Settings(**given), Material(None, adapter_config=SimpleNamespace(r=rank)))
        chosen = choose_features(differences, settings.score, scored(settings))
        found, _ = bases_of(one.sae, chosen, differences.mean[chosen], settings)
        yield name, whole(found[""]), whole(found.get(".read", found[""]))
    raw = (one.streams["aligned"] - one.streams["unaligned"])[:texts]
    direct = {"`activation-svd-r`": raw, "`difference-in-means`": raw.mean(0, keepdim=True)}
    for name, directions in direct.items():
        basis = whole(orthonormal_basis(directions, variance=1.0).columns)
        yield name, basis, basis
    random = whole(torch.zeros(len(one.truth), 0))
    yield "`random-orthonormal`", random, random


def read_share(one: World, basis: torch.Tensor) -> float:
    """The share of the true features' variance that is linear in Uᵀx."""
    seen = basis.T @ one.with_true
    explained = (seen * torch.linalg.solve(basis.T @ one.covariance @ basis, seen)).sum()
    return float(explained / one.variance.sum())


def tables(worlds: int) -> Iterator[str]:
    """A Markdown table for every width, rank and number of texts: written / read of every row and dictionary."""
    for d in WIDTHS:
        shares: dict[tuple[int, int, str, str], list[tuple[float, float]]] = {}
        for dictionary, seed in product(DICTIONARIES, range(worlds)):
            one = world(dictionary, d, seed)
            for texts, rank in product(TEXTS, RANKS):
                for name, write, read in bases(one, texts, rank):
                    found = (overlap(write, one.truth), read_share(one, read))
                    shares.setdefault((texts, rank, name, dictionary), []).append(found)
        names = list(dict.fromkeys(name for _, _, name, _ in shares))
        for texts, rank in product(TEXTS, RANKS):
            yield f"d = {d}, rank {rank}, {texts} pairs; written / read:\n"
            yield f"| start | {' | '.join(DICTIONARIES)} |"
            yield "| --- |" + " --- |" * len(DICTIONARIES)
            for name in names:
                cells = [zip(*shares[texts, rank, name, dictionary], strict=True) for dictionary in DICTIONARIES]
                yield f"| {name} | {' | '.join(' / '.join(f'{fmean(of):.2f}' for of in cell) for cell in cells)} |"
            yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=5, help="drawn for each width and dictionary")
    for line in tables(parser.parse_args().worlds):
        print(line)


if __name__ == "__main__":
    main()
