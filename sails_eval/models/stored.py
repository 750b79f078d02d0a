"""Weights as files hold them: whether these can be read, hold all that a model has, and under which names."""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sails_eval.core.errors import UserError, as_user_error, first_line
from sails_eval.core.files import POINTER, check_no_pointer, read_json

logger = logging.getLogger(__name__)

WEIGHTS, TOKENIZER = (".json", ".safetensors"), (".json", ".jinja", ".model")
"""The files that weights, and a tokenizer, are read from."""

INDEX = "model.safetensors.index.json"

SETTINGS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("adapter_config.json", "cfg.json", INDEX),
)
"""Files of models, tokenizers, adapters and SAEs that hold a JSON object; libraries fail on others in many ways."""

_QUANTISED = re.compile(r"\.(weight_scale\w*|scales|qzeros|SCB|absmax)$")
"""In names of weights: what others, which are whole numbers or have eight bits, are to be multiplied by."""

AGAIN = "correct it, or copy or fetch it again"


def check_readable(folder: Path, kinds: Collection[str] = WEIGHTS) -> None:
    """Raises UserError for files of a folder that cannot be read; of weights only headers are looked at."""
    for file in sorted(folder.glob("*.*")):
        if file.suffix not in kinds:
            continue
        with file.open("rb") as opened:
            check_no_pointer(file, opened.read(len(POINTER)))
        if file.name in SETTINGS:
            read_settings(file)
        elif file.suffix == ".jinja":
            read_template(file)
        elif file.suffix == ".safetensors":
            _check_header(file)
    if ".safetensors" in kinds:
        shards_of(folder)


def read_settings(file: Path) -> dict[str, Any]:
    """What a file of `SETTINGS` holds. Raises UserError where it is not a JSON object."""
    try:
        return read_json(file)
    except UserError as error:
        raise UserError(f"{error}; {AGAIN}") from error


def read_template(file: Path) -> str:
    """The chat template in a file. Raises UserError where there is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot read the chat template: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: the chat template is not in UTF-8 ({error}); {AGAIN}") from error


def _check_header(file: Path) -> None:
    try:
        with safe_open(file, framework="np"):
            pass
    except SafetensorError as error:
        raise UserError(f"{file}: damaged or cut off ({first_line(error)}); copy or fetch it again") from error


def shards_of(folder: Path) -> list[str]:
    """The files that the index of a model's weights names, if it has one. Raises UserError where it names none."""
    if not (file := folder / INDEX).is_file():
        return []
    named = read_settings(file).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{file}: key 'weight_map' has to map each weight to the name of its file; {AGAIN}")
    return sorted({*named.values()})


def fix_of_loading(options: Mapping[str, Any]) -> str:
    """What to do where transformers makes no model of a folder's config and these options of the pair's."""
    own = "the pair's key 'attn_implementation', " if "attn_implementation" in options else ""
    return f"correct {own}its config.json or generation_config.json, or fetch the model again"


def stored_model(kind: Any, source: str, *, what: str, **options: Any) -> Any:
    """A model as transformers loads it, `kind` being its class or an automatic one.

    Where config.json says that head and embedding are tied and the files hold two, these stay two, and the config of
    the model says so: whoever asks transformers to tie weights later gets no other model. Raises UserError where files
    are missing or damaged, lack weights, which would be random, or have them in other shapes.
    """
    if (Path(source) / "adapter_config.json").is_file():  # transformers would load its base, and put it on
        raise UserError(f"{what}: an adapter, not a model; give the model that it was trained on")
    told = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True, **options}
    told["trust_remote_code"] = False  # None would ask at the terminal
    check_readable(Path(source))
    with as_user_error(f"{what}: cannot load it", fix_of_loading(options)):
        model, found = kind.from_pretrained(source, **told)
    if found["mismatched_keys"]:
        name, stored, wanted = min(found["mismatched_keys"])
        raise UserError(
            f"{what}: config.json does not fit the weights: '{name}' is {tuple(stored)} in its files, but "
            f"{tuple(wanted)} by config.json"
        )
    if found["missing_keys"]:
        raise UserError(
            f"{what}: its files lack {len(found['missing_keys'])} weights that its config.json asks for, such as "
            f"'{min(found['missing_keys'])}'; fetch all of them, or correct config.json"
        )
    if scales := sorted(filter(_QUANTISED.search, found["unexpected_keys"])):
        raise UserError(
            f"{what}: its files hold quantised weights ('{scales[0]}'), but config.json does not say how; fetch "
            "config.json again (its key is quantization_config), or give the model before quantisation"
        )
    if found["unexpected_keys"]:
        _warn_of_unread(what, len(found["unexpected_keys"]), min(found["unexpected_keys"]))
    if is_untied(model):
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    return model


@cache
def _warn_of_unread(what: str, number: int, name: str) -> None:
    text = "%s: %d weights in its files are not read, such as '%s'; see that config.json belongs to them"
    logger.warning(text, what, number, name)


def is_untied(model: Any) -> bool:
    """Whether a model has an output head apart from its embedding, although its config says that they are one."""
    head, tied = model.get_output_embeddings(), model.config.get_text_config().tie_word_embeddings
    return bool(tied and head is not None and head.weight is not model.get_input_embeddings().weight)


def put_weights(model: Any, folder: Path) -> None:
    """Put the weights of a folder, which can be read, into a model of the same kind, in place.

    Raises UserError where they are not those of such a model.
    """
    parameters, put = dict(model.named_parameters()), set()
    for name, value in _by_live_names(model, folder):
        if name not in parameters:
            raise UserError(f"{folder}: the base model has no weight '{name}'; give the pair of this model as --pair")
        if parameters[name].shape != value.shape:
            sizes = f"{tuple(value.shape)}, in the base model {tuple(parameters[name].shape)}"
            raise UserError(f"{folder}: '{name}' is {sizes}; give the pair of this model as --pair")
        parameters[name].data.copy_(value)
        put.add(name)
    if lost := parameters.keys() - put:
        raise UserError(f"{folder}: no weight '{min(lost)}' there; it is not a whole model of this kind")


def _by_live_names(model: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    """The weights of a folder, by the names that the loaded model has for them."""
    files, parameters = sorted(folder.glob("*.safetensors")), dict(model.named_parameters())
    stored: dict[str, Path] = {}
    for file in files:
        with safe_open(file, framework="pt") as weights:
            stored |= dict.fromkeys(weights.keys(), file)
    if stored.keys() - parameters.keys():  # of some architectures files have other names, or experts one by one
        other = stored_model(type(model), str(folder), what=str(folder), dtype="auto")
        yield from other.named_parameters()
        return
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a dict
                yield name, weights.get_tensor(name)
