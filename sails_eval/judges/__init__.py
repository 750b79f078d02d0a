"""Judges: from completions to verdicts. A new kind of judge is one file here and one line in `JUDGES`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sails_eval.errors import UserError, unknown

if TYPE_CHECKING:
    from sails_eval.judges.base import Judge

JUDGES = {
    "testbed": "sails_eval.judges.local:testbed_judge",
    "grammar": "sails_eval.judges.grammar:GrammarJudge",
    "rules": "sails_eval.judges.rules:RulesJudge",
    "hf:MODEL": "sails_eval.judges.local:LocalJudge",
    "openai:MODEL": "sails_eval.judges.api:ApiJudge",
}
"""How a judge is asked for, and what makes it; imported only then. `MODEL` becomes the maker's argument."""


def load_judge(spec: str) -> Judge:
    """The judge that `spec` names, such as `rules` or `hf:google/gemma-2-9b-it`; nothing is loaded yet.

    Raises UserError for an unknown kind, a missing model, or a model given to a judge that takes none.
    """
    kind, _, model = spec.partition(":")
    forms = {form.partition(":")[0]: form for form in JUDGES}
    if kind not in forms:
        raise unknown("judge", kind, forms)
    form = forms[kind]
    if bool(model) != (form != kind) or (spec != kind and not model):
        raise UserError(f"judge '{spec}' is not of the form '{form}'")
    module, _, maker = JUDGES[form].partition(":")
    make = getattr(import_module(module), maker)
    judge: Judge = make(model) if model else make()
    return judge
