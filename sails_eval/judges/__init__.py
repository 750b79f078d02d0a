"""Judges: from completions to verdicts.

A new kind of judge is one file here and one line in `JUDGES`, or an entry point of a package of the user's own.
"""

import inspect
from functools import lru_cache
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.plugins import faults_told, load_plugin, plugins
from sails_eval.judges.base import Judge
from sails_eval.judges.cascade import Cascade
from sails_eval.judges.panel import Panel
from sails_eval.judges.spec import Spec, is_cascade, parse

JUDGES = {
    "testbed": "sails_eval.judges.local:testbed_judge",
    "grammar": "sails_eval.testbed.grammar_judge:GrammarJudge",
    "rules": "sails_eval.judges.rules:RulesJudge",
    "learned": "sails_eval.judges.learned.judge:LearnedJudge",
    "hf": "sails_eval.judges.local:hf_judge",
    "openai": "sails_eval.judges.api:ApiJudge",
    "zoo": "sails_eval.judges.zoo:zoo_judge",
}
"""What makes a judge of each kind; imported only then."""


def load_judge(spec: str) -> Judge:
    """The judge that `spec` names, such as `rules`, `hf:google/gemma-2-9b-it?batch_size=4`, the panel `a,b,c` or the
    cascade `cascade:a,b,c`.

    A kind that is not in `JUDGES` is looked for among the entry points `sails_eval.judges`. What makes it, ours or not,
    is a class or function. Its first parameter, where it has one, is the model (`MODEL` in `hf:MODEL`). With
    `**options` it takes those that the class `Options` of its module has as fields: it gets them as text, and converts
    and checks them. `rubric` is the same for all that take `rubrics`, and is read here.

    Nothing is loaded yet. Raises UserError for an unknown kind or option, a missing model, or a model given to a judge
    that takes none.
    """
    judges = [_load(member) if member.kind in JUDGES else _load_of_others(member) for member in parse(spec)]
    if is_cascade(spec):
        return Cascade(judges)
    return judges[0] if len(judges) == 1 else Panel(judges)


def _load(spec: Spec) -> Judge:
    make = _maker(spec.kind)
    taken = inspect.signature(make).parameters
    model = next((one for one in taken.values() if one.kind is one.POSITIONAL_OR_KEYWORD), None)
    needed = model is not None and model.default is model.empty
    if spec.model == "" or (needed if spec.model is None else model is None):
        form = f"{spec.kind}:{model.name.upper()}" if model else spec.kind
        raise UserError(f"judge '{spec.bare}' is not of the form '{form}'")
    known = ["rubric"] if "rubrics" in taken else []
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        known += import_module(make.__module__).Options.model_fields
    for key in spec.options:
        if key not in known:
            menu = ", ".join(sorted(known)) or "none"
            raise UserError(f"judge '{spec.bare}' has no option '{key}'; its options: {menu}")
    options: dict[str, Any] = dict(spec.options)
    if "rubric" in options:
        from sails_eval.judges.rubric import choose_rubrics  # which needs pydantic

        options["rubrics"] = choose_rubrics(options.pop("rubric"))
    judge = make(*filter(None, [spec.model]), **options)
    if not isinstance(judge, Judge):
        raise UserError(f"judge '{spec.bare}': {type(judge).__name__} is not a subclass of {Judge.__module__}.Judge")
    return judge


def _load_of_others(spec: Spec) -> Judge:
    from sails_eval.core.schema import as_name  # which needs pydantic

    with faults_told(f"judge '{spec.bare}'"):
        judge = _load(spec)
        if not (judge.name and judge.fingerprint):
            raise ValueError("it needs a name and a fingerprint")
        if (key := judge.fingerprint[:8]) != as_name(key):
            raise ValueError(f"its fingerprint begins with {key!r}, which cannot name the folder of its verdicts")
    return judge


def _maker(kind: str) -> Any:
    """What makes judges of a kind, here or in a package of the user's. Raises UserError where there is none."""
    if kind in JUDGES:
        return resolve_name(JUDGES[kind])
    found = plugins("judges")
    if kind not in found:
        raise unknown("judge", kind, [*JUDGES, *found])
    return load_plugin(found[kind])


@lru_cache(maxsize=2)
def judge_of(spec: str) -> Judge:
    return load_judge(spec)
