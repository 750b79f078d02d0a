"""No model grades its own answers, unless that is wanted: it would favour its own way of writing."""

from __future__ import annotations

from pathlib import Path

from sails_eval.errors import UserError
from sails_eval.judges.spec import Spec, parse


def check_not_itself(judge: str, model: str) -> None:
    """Raise UserError if a judge, a panel's member or its `other` is the model whose answers it is to judge."""
    for spec in parse(judge):
        if "other" in spec.options:
            check_not_itself(spec.options["other"], model)
        own = spec.options.get("model") if spec.kind == "zoo" else spec.model
        if own is not None and _is_same(spec, own, model):
            raise UserError(
                f"judge '{spec.bare}' is the evaluated model itself ({model}); name another judge, or say "
                "--allow-self-judging"
            )


def _is_same(spec: Spec, judge: str, model: str) -> bool:
    """Whether both names stand for one model.

    Two folders are compared by where they lie, two hub ids by their letters. A folder and a hub id are one if the
    folder is called as the model is, and so are models behind an endpoint, which may be called anything else as well.
    """
    folders = Path(judge).is_dir(), Path(model).is_dir()
    if spec.kind != "openai" and all(folders):
        return Path(judge).resolve() == Path(model).resolve()
    if spec.kind != "openai" and not any(folders):
        return judge.casefold() == model.casefold()
    return _last(judge) == _last(model)


def _last(name: str) -> str:
    return (Path(name).resolve() if Path(name).is_dir() else Path(name)).name.casefold()
