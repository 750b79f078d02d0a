"""No model grades its own answers, unless that is wanted: it would favour its own way of writing."""

from pathlib import Path

from sails_eval.core.errors import UserError
from sails_eval.judges.spec import Spec, parse
from sails_eval.judges.zoo import ZOO


def check_not_itself(judge: str, model: str) -> None:
    """Raise UserError if a judge, or a member of it, is the model whose answers it is to judge."""
    for spec in parse(judge):
        if any(_is_same(spec, own, model) for own in _models(spec)):
            raise UserError(
                f"judge '{spec.bare}' is the evaluated model itself ({model}); name another judge, or add "
                "--allow-self-judging"
            )
        if other := spec.options.get("other"):
            check_not_itself(other, model)


def _models(spec: Spec) -> list[str]:
    """The models that a judge asks: its own, or those of a published one."""
    if spec.kind != "zoo":
        return [spec.model] if spec.model else []
    published = ZOO[spec.model].models if spec.model in ZOO else ()
    return [*published, *([spec.options["model"]] if "model" in spec.options else [])]


def _is_same(spec: Spec, judge: str, model: str) -> bool:
    """Whether both names stand for one model.

    Two folders are compared by where they lie, two hub ids by their letters. A folder and a hub id are one if the
    folder is called as the model is, and so are models behind an endpoint, which may be called anything else as well.
    """
    judge, model = judge.rstrip("/"), model.rstrip("/")
    folders = Path(judge).is_dir(), Path(model).is_dir()
    if spec.kind != "openai" and all(folders):
        return Path(judge).resolve() == Path(model).resolve()
    if spec.kind != "openai" and not any(folders):
        return judge.casefold() == model.casefold()
    return _last(judge) == _last(model)


def _last(name: str) -> str:
    """What a model is called, without its owner, and without the variant that an endpoint puts behind a colon."""
    path = Path(name).resolve() if Path(name).is_dir() else Path(name)
    cached = next((part for part in path.parts if part.startswith("models--")), None)  # a folder of the hub's cache
    return (cached.rpartition("--")[2] if cached else path.name).partition(":")[0].casefold()
