"""`sails-eval pairs`: list pairs, show one, and check that its model, chat template and SAEs fit each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource, load_pair
from sails_eval.core.paths import PACKAGE
from sails_eval.core.recipe import defaults, load_recipe
from sails_eval.core.tables import Table, as_yaml, wrapped
from sails_eval.data.dialogues import Example
from sails_eval.data.reading import read_examples
from sails_eval.methods.subspace.layers import is_made_here, sae_layer
from sails_eval.methods.subspace.saes import check_fits, load_sae, stated_by
from sails_eval.methods.subspace.text_windows import answered
from sails_eval.models.architectures import architecture_here, targets_in_words
from sails_eval.models.chat import encode_chat
from sails_eval.models.hub import lacks_access
from sails_eval.plan.problems import if_it_can

FACTOR_OF_L0 = 2.0
"""How far L0 on a text sample may be from the published one: other texts have other features."""

SAMPLED = 64
"""Training texts that L0 is measured on."""

SKIPPED = 1
"""Tokens at the start of a text that L0 is not measured on: BOS and the like have activations of another size."""

SAMPLE = """\
The river rises in the hills and runs east for two hundred miles before it reaches the sea. For most of the year it is \
shallow enough to cross on foot, but in spring the melting snow can lift it by several metres within a day.
---
To make the dough, mix flour, water, salt and a little yeast, and leave it in a warm place until it has doubled in \
size. Then fold it twice, shape it, and bake it in a hot oven until the crust is dark.
---
def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)
---
In 1931 the committee published its first report, which listed the towns without a library. Within ten years the \
number had fallen by half, mostly because neighbouring towns agreed to share a building and its staff.
"""


State = Literal["ok", "warning", "wrong", "missing"]


@dataclass(frozen=True)
class Finding:
    """What was found of one thing: it fits (ok), with a warning, it does not (wrong), or it is not on this machine
    (missing)."""

    what: str
    state: State
    told: str

    @classmethod
    def of(cls, what: str, fits: bool, told: str) -> Finding:
        return cls(what, "ok" if fits else "wrong", told)

    @classmethod
    def error(cls, kind: str, name: object, error: UserError, *, missing: bool = False) -> Finding:
        """What an error says of a model or an SAE, whose name is told once."""
        told = str(error).removeprefix(f"{kind} '{name}'").removeprefix(":").lstrip()
        return cls(f"{kind} {name}", "missing" if missing else "wrong", told)


# --- list and show ------------------------------------------------------------------------------------------------


def listing() -> Table:
    """The shipped pairs, one line each."""
    pairs = [load_pair(path.stem) for path in sorted((PACKAGE / "pairs").glob("*.yaml"))]
    rows = [[pair.name, str(len(pair.saes)), pair.description] for pair in pairs]
    keys = ("name", "model", "description", "dtype", "rank", "tokens")
    records = [{**{key: vars(pair)[key] for key in keys}, "saes": len(pair.saes)} for pair in pairs]
    return Table([["pair", "SAEs", "what"], *rows], records, "lrl")


def shown(pair: Pair) -> str:
    """A pair as YAML, and which modules each of its SAEs serves."""
    values = pair.model_dump(mode="json", exclude_defaults=True, exclude={"saes", "sae_sets"})
    lines = [
        as_yaml(values),
        "",
        "SAEs:",
    ]
    found, _ = architecture_here(pair)
    writes = [name for name in pair.target_modules if found.side(name) is True and not found.refused]
    reads = [name for name in pair.target_modules if found.side(name) is False and not found.refused]
    for source in pair.saes:
        layer = sae_layer(source)
        if layer is None:
            lines.append(wrapped(f"- {source.path or source.name}: layer given in its files"))
            continue
        l0 = published_l0(source)
        known = f", published L0 {l0:g}" if l0 else ""
        told = f"output of layers.{layer}, for {', '.join(writes) or 'nothing'} of layer {layer} and "
        told += f"{', '.join(reads) or 'nothing'} of layer {layer + 1}{known}"
        lines.append(wrapped(f"- {source.path or source.name}: {told}"))
    if pair.saes and found.refused:
        lines.append(wrapped(f"- for nothing: {found.refused}"))
    for name, sources in pair.sae_sets.items():
        lines.append(f"- set '{name}': {len(sources)} SAEs")
    return "\n".join(lines)


def published_l0(source: SaeSource, sae: Any = None) -> float | None:
    """The L0 that an SAE's makers state: in SAELens's registry, in the path that it gives, or in the SAE's metadata."""
    if source.path is not None:
        stated = getattr(sae.cfg.metadata, "l0", None) if sae is not None else None
        return float(stated) if stated else None
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release = get_pretrained_saes_directory().get(str(source.release))
    if release is None or source.id not in release.saes_map:
        return None
    named = re.search(r"average_l0_(\d+)", release.saes_map[source.id])
    return float(named.group(1)) if named else release.expected_l0.get(source.id) or None


def own_texts(pair: Pair, tokenizer: Any) -> list[str]:
    """The first training dialogues of a pair whose data are here, as the model sees them; else a few of our own."""
    examples = _examples(pair)[:SAMPLED]
    return [answered(tokenizer, example, example.response) for example in examples] or SAMPLE.split("\n---\n")


def _examples(pair: Pair) -> tuple[Example, ...]:
    """The pair's training data; none where they cannot be had."""
    found = if_it_can(read_examples, pair.train) if pair.train is not None else None
    return found.examples if found else ()


# --- check --------------------------------------------------------------------------------------------------------


def check_pair(pair: Pair, texts: Sequence[str] = ()) -> list[Finding]:
    """Everything that can be seen of a pair on this machine; what is missing is reported, and the rest is checked.

    L0 is measured on `texts`, by default on those of `own_texts`.
    """
    absent = lacks_access(pair.model, pair.revision, known_gated=pair.gated)
    if absent is not None:
        return [Finding.error("model", pair.model, absent, missing=True), *_check_saes(pair, None, [])]
    try:
        base, findings = _check_model(pair)
    except UserError as error:
        return [Finding.error("model", pair.model, error), *_check_saes(pair, None, [])]
    if any(finding.state == "wrong" for finding in findings):  # it may not be able to read the data
        return [*findings, *_check_saes(pair, None, [])]
    return [*findings, *_check_saes(pair, base, texts or own_texts(pair, base.tokenizer))]


def _check_model(pair: Pair) -> tuple[Any, list[Finding]]:
    from sails_eval.models.base import load_base
    from sails_eval.plan.cost.meta_model import shape_of
    from sails_eval.plan.cost.model_checks import check_answers, check_methods, check_tokens, notes_on, turns

    base = load_base(pair)  # refuses BOS twice
    tokenizer, config = base.tokenizer, base.model.config.get_text_config()
    problems = check_methods(base.model, shape_of(pair), pair, [load_recipe(name) for name in _default_methods(pair)])
    problems.attempt(check_tokens, tokenizer, base.model, _examples(pair))
    problems.attempt(check_answers, tokenizer)
    bos = tokenizer.bos_token_id
    count = encode_chat(tokenizer, [{"role": "user", "content": "hello"}]).count(bos) if bos is not None else 0
    known = f"{config.num_hidden_layers} layers of width {config.hidden_size}, {base.model.dtype}".replace("torch.", "")
    template = f"{count} BOS token{'s' * (count > 1)}" if bos is not None else "tokenizer has no BOS token"
    return base, [
        Finding("model", "ok", known),
        Finding("chat template", "ok", template),
        Finding("turns", "ok", turns(tokenizer, base.model)),
        Finding("attention", "ok", base.model.config._attn_implementation),
        Finding("target modules", "ok", targets_in_words(pair)),
        *_check_architecture(pair, base.model),
        *(Finding("model", "wrong", problem.told) for problem in problems.different),
        *(Finding("model", "warning", note) for note in notes_on(pair, tokenizer, base.model)),
    ]


def _check_architecture(pair: Pair, model: Any) -> Iterator[Finding]:
    """Which modules read and write the residual stream, where that is not told by the table."""
    from sails_eval.models.layers import is_unlisted
    from sails_eval.models.probe import doubts, found_by_doing, in_yaml

    if told := [*doubts(model, pair)]:
        yield from (Finding("architecture", "warning", doubt) for doubt in told)
    elif pair.architecture or is_unlisted(model):
        yield Finding("architecture", "ok", f"found by what modules do: {in_yaml(found_by_doing(model))}")


def _default_methods(pair: Pair) -> list[str]:
    """What a comparison has where nobody says; SAILS only where the pair has SAEs."""
    return [name for name in defaults().methods if pair.saes or not load_recipe(name).init]


def _check_saes(pair: Pair, base: Any, texts: Sequence[str]) -> Iterator[Finding]:
    """One at a time, so that no two have to fit into memory."""
    from sails_eval.plan.cost.meta_model import shape_of
    from sails_eval.plan.cost.model_checks import check_sae

    shape = if_it_can(shape_of, pair)
    seen: set[int] = set()
    for source in pair.saes:
        name = source.path or source.name
        what = f"SAE {name}"
        try:
            if shape is not None:
                check_sae(source, shape, pair)
            sae = load_sae(source).eval()
        except UserError as error:
            # not in the cache, nor on the line; or not trained yet
            absent = isinstance(error.__cause__, OSError) if source.path is None else _is_to_be_made(source.path)
            yield Finding.error("SAE", name, error, missing=absent)
            continue
        try:
            config = base.model.config.get_text_config() if base else shape_of(pair).text
            layer = check_fits(source, stated_by(sae), config, pair.model)
            if layer in seen:
                raise UserError(f"layer {layer} has two SAEs; remove one from key 'saes' of pair '{pair.name}'")
            seen.add(layer)
        except UserError as error:
            yield Finding.error("SAE", name, error)
            continue
        yield _decoder(f"{what}: decoder", sae)
        if base is not None:
            sae = sae.to(base.model.device)
            try:
                yield from _on_texts(what, published_l0(source, sae), sae, layer, base, texts)
            except UserError as error:
                yield Finding.error("SAE", name, error)


def _is_to_be_made(folder: Path) -> bool:
    return is_made_here(folder) and not folder.is_dir()


def _decoder(what: str, sae: Any) -> Finding:
    """The norms of the features' directions: any will do, as directions are used at length 1."""
    norms = sae.W_dec.detach().float().norm(dim=1)
    return Finding(what, "ok", f"{len(norms)} directions of norm {norms.min():.3g} to {norms.max():.3g}")


def _on_texts(
    what: str, published: float | None, sae: Any, layer: int, base: Any, texts: Sequence[str]
) -> Iterator[Finding]:
    """The hook, and how many features are active and how much they explain, over the tokens of the texts."""
    import torch

    from sails_eval.methods.subspace.activations import residual_streams
    from sails_eval.methods.subspace.sae_quality import GOOD, USABLE, quality

    found, moved = [], 0.0
    with torch.no_grad():
        for text in texts:
            special = not text.startswith(base.tokenizer.bos_token or "<>")  # which a rendered dialogue has already
            encoded = base.tokenizer(text, return_tensors="pt", add_special_tokens=special)
            ids = encoded["input_ids"].to(base.model.device)
            mask = torch.ones_like(ids)
            ((_, stream),) = residual_streams(base.model, [layer], ids, mask)
            found.append(stream[0, SKIPPED:].float())
            if layer + 1 < base.model.config.get_text_config().num_hidden_layers:  # the last is after the final norm
                states = base.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
                moved = max(moved, float((stream - states[layer + 1]).abs().max()))
    measured = quality(sae, torch.cat(found))
    off = f", differs from hidden_states[{layer + 1}] by up to {moved:.3g}" if moved else ""
    yield Finding.of(f"{what}: hook", moved == 0, f"output of layers.{layer}{off}")
    told = f"{measured.l0:.1f} of {sae.cfg.d_sae} features active, {100 * measured.explained:.0f} % of the variance "
    told += (
        f"explained, over {measured.tokens} tokens; published L0: {'none' if published is None else f'{published:g}'}"
    )
    fits = published is None or 1 / FACTOR_OF_L0 <= measured.l0 / published <= FACTOR_OF_L0
    if measured.explained < USABLE:
        told += f"; less than {100 * USABLE:.0f} % explained is refused without --allow-poor-saes"
        yield Finding(f"{what}: L0", "wrong", told)
        return
    yield Finding(f"{what}: L0", "ok" if fits and measured.explained >= GOOD else "warning", told)
