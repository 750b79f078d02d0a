"""Judges: from completions to verdicts. A new kind of judge is one file here and one line in `JUDGES`."""

from __future__ import annotations

import inspect
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sails_eval.core.errors import UserError, unknown
from sails_eval.judges.base import Judge
from sails_eval.judges.spec import Spec, parse

if TYPE_CHECKING:
    from sails_eval.judges.base import Judge

JUDGES = {
    "testbed": "sails_eval.judges.local:testbed_judge",
    "grammar": "sails_eval.testbed.grammar_judge:GrammarJudge",
    "rules": "sails_eval.judges.rules:RulesJudge",
    "hf:MODEL": "sails_eval.judges.local:hf_judge",
    "openai:MODEL": "sails_eval.judges.api:ApiJudge",
    "zoo:NAME": "sails_eval.judges.zoo:zoo_judge",
}
"""How a judge is asked for, and what makes it; imported only then.

`MODEL` becomes the maker's argument. Its options, as text, become keyword arguments, whose values the maker converts
and checks; which there are, the class `Options` of its module says. `rubric` is the same for all makers that take
`rubrics`, and is read here.
"""


def load_judge(spec: str) -> Judge:
    """The judge that `spec` names, such as `rules`, `hf:google/gemma-2-9b-it?batch_size=4` or the panel `a,b,c`.

    Nothing is loaded yet. Raises UserError for an unknown kind or option, a missing model, or a model given to a judge
    that takes none.
    """
    judges = [_load(member) for member in parse(spec)]
    if len(judges) == 1:
        return judges[0]
    from sails_eval.judges.panel import Panel

    return Panel(judges)


def _load(spec: Spec) -> Judge:
    forms = {form.partition(":")[0]: form for form in JUDGES}
    if spec.kind not in forms:
        raise unknown("judge", spec.kind, forms)
    form = forms[spec.kind]
    if bool(spec.model) != (form != spec.kind) or spec.model == "":
        raise UserError(f"judge '{spec.bare}' is not of the form '{form}'")
    module, _, maker = JUDGES[form].partition(":")
    judge: Judge = _make(import_module(module), maker, spec)
    return judge


def _make(module: Any, maker: str, spec: Spec) -> Any:
    """What the maker makes. Raises UserError for an option that it does not take."""
    make = getattr(module, maker)
    taken = inspect.signature(make).parameters
    known = ["rubric"] if "rubrics" in taken else []
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        known += module.Options.model_fields
    for key in spec.options:
        if key not in known:
            menu = ", ".join(sorted(known)) or "none"
            raise UserError(f"judge '{spec.bare}' takes no option '{key}'; it takes {menu}")
    options: dict[str, Any] = dict(spec.options)
    if "rubric" in options:
        from sails_eval.judges.rubric import choose_rubrics

        options["rubrics"] = choose_rubrics(options.pop("rubric"))
    return make(*filter(None, [spec.model]), **options)


@lru_cache(maxsize=2)
def judge_of(spec: str) -> Judge:
    return load_judge(spec)
