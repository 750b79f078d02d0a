"""Weights as files hold them: whether these can be read, hold all that a model has, and under which names."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sails_eval.core.errors import UserError, first_line, foreign
from sails_eval.core.files import read_json

POINTER = b"version https://git-lfs"
"""What a file begins with that git-lfs left in place of the real one."""


WEIGHTS, TOKENIZER = (".json", ".safetensors"), (".json", ".jinja", ".model")
"""The files that weights, and a tokenizer, are read from."""

OBJECTS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("adapter_config.json", "model.safetensors.index.json", "cfg.json"),
)
"""Those of them that hold an object, and are small."""


def check_readable(folder: Path, kinds: Collection[str] = WEIGHTS) -> None:
    """Raises UserError for files of a folder that cannot be read; of weights only headers are looked at."""
    for file in sorted(folder.glob("*.*")):
        if file.suffix not in kinds:
            continue
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise UserError(f"{file}: a pointer of git-lfs, not the file itself; fetch it: git lfs pull")
        if file.name in OBJECTS:
            read_json(file)
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="np"):
                pass
        except SafetensorError as error:
            raise UserError(f"{file}: damaged or cut off ({first_line(error)}); copy or fetch it again") from error


def stored_model(kind: Any, source: str, *, what: str, **options: Any) -> Any:
    """A model as transformers loads it, `kind` being its class or an automatic one.

    Where config.json says that head and embedding are tied and the files hold two, these stay two, and the config of
    the model says so: whoever asks transformers to tie weights later gets no other model. Raises UserError where files
    are missing or damaged, lack weights, which would be random, or have them in other shapes.
    """
    told = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True, **options}
    told["trust_remote_code"] = False  # None would ask at the terminal
    with foreign(f"{what}: cannot load it"):
        check_readable(Path(source))
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
    if is_untied(model):
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    return model


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
