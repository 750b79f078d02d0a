"""Rows that nothing is trained for: finished models (--reference), and the base model under a system prompt."""

from pathlib import Path

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import of_path
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.schema import as_name, check_name
from sails_eval.models import endpoint
from sails_eval.models.engines import CHAT, HF, OPENAI
from sails_eval.models.hub import has_chat_template
from sails_eval.models.identity import commit_of, model_identity
from sails_eval.models.saved_adapter import CHECKPOINT, CONFIG, read_adapter, read_lora
from sails_eval.plan.plan import ReferenceModel


def prompted(recipe: Recipe, pair: Pair, engine: str) -> ReferenceModel:
    """The pair's base model under a recipe's system prompt."""
    identity = {"system_prompt": recipe.system_prompt}
    return ReferenceModel(recipe.name, pair.name, pair, engine, identity, system_prompt=recipe.system_prompt)


def reference(asked: str, pair: Pair, engine: str, *, name: str | None = None) -> ReferenceModel:
    """A finished model: an adapter's or a model's folder, a hub id (ID@REVISION), `openai:MODEL`, or one of the pair's.

    A model is asked by its own chat template, or the pair's where it has none. Raises UserError where it can't be had.
    """
    target = pair.references.get(asked, asked)
    name = check_name(name or (asked if asked in pair.references else name_of(target)))
    kind, _, called = target.partition(":")
    if kind == OPENAI:
        if not called:
            raise UserError(f"reference '{target}' has no model name; give openai:MODEL")
        identity = {"model": called, "url": endpoint.url()}
        other = pair.model_copy(update={"model": called, "revision": None})
        return ReferenceModel(name, target, other, CHAT, identity)
    folder = Path(target)
    if (folder / CONFIG).is_file():
        read_adapter(folder) if engine == HF else read_lora(folder)
        identity = {"adapter": of_path(folder)}
        return ReferenceModel(name, f"{pair.name} + {folder.resolve().name}", pair, engine, identity, folder)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        inside = folder / "checkpoint"
        way = f"give {inside}" if inside.is_dir() else "give the folder of one"
        raise UserError(
            f"'{target}': the folder has neither a PEFT adapter (adapter_config.json) nor a model "
            f"(*.safetensors); {way}"
        )
    model, _, revision = (target, "", "") if folder.is_dir() else target.partition("@")
    commit = commit_of(model, revision or None)
    template = None if has_chat_template(model, commit) else pair.chat_template
    other = pair.model_copy(update={"model": model, "revision": commit, "chat_template": template})
    return ReferenceModel(
        name, folder.resolve().name if folder.is_dir() else model, other, engine, model_identity(other)
    )


def name_of(target: str) -> str:
    """A row's name: that of the model, its folder or its adapter's, or of the cell that a checkpoint belongs to."""
    if not Path(target).exists():
        return as_name(Path(target.removeprefix(f"{OPENAI}:").partition("@")[0]).name)
    path = Path(target).resolve()
    return as_name(path.parent.name if path.name == CHECKPOINT else path.name)
