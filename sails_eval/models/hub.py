"""What lies on the hub and on this machine: files of models, and whether the hub would give them."""

from pathlib import Path

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.fetchable import hint
from sails_eval.core.files import read_json
from sails_eval.core.network import check_network
from sails_eval.core.pair import Pair
from sails_eval.core.paths import PACKAGE

PLAIN = PACKAGE / "pairs" / "templates" / "plain.jinja"
"""The chat template of models that have none: `User: …`, `Assistant: …` and the end-of-text token after an answer."""


def check_hub() -> None:
    """Raise UserError where the environment names a proxy or certificates with which the hub can't be asked."""
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        check_network()


def fetch(model: str, revision: str | None = None) -> Path:
    """Where a model lies, after fetching it if need be. Raises OSError or ValueError where it can't be had."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    check_hub()
    wanted = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]
    return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))


def gated(model: str) -> UserError:
    """The error for a model whose licence has to be accepted before the hub gives it."""
    from huggingface_hub import get_token

    held = "the token in use has no access to it" if get_token() else "and there is no token"
    return UserError(
        f"model '{model}' is gated, {held}; accept its licence at https://huggingface.co/{model}, then run "
        "'hf auth login' or set HF_TOKEN; or give the folder of a local copy as --model or as the pair's key 'model'"
    )


def not_given(model: str, error: BaseException) -> UserError:
    """The error for what is no folder, and is not to be had from the hub either."""
    return UserError(f"model '{model}': no such folder, and cannot be fetched from the hub: {first_line(error)}")


def no_answer() -> tuple[type[BaseException], ...]:
    """What is raised where the hub gives no answer, or not the one that was wanted."""
    from huggingface_hub.errors import HfHubHTTPError

    return (*HfHubHTTPError.__bases__, ValueError)  # of the HTTP library, which differs between hub versions


def lacks_access(model: str, revision: str | None, *, known_gated: bool) -> UserError | None:
    """Why a model cannot be had, as far as that is known without fetching it; None where it is here or can be.

    The hub is asked only for a model that is not here, and not where HF_HUB_OFFLINE says not to.
    """
    from huggingface_hub import HfApi, constants, get_token, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError

    try:
        if Path(model).is_dir() or isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str):
            return None
    except HFValidationError:
        return UserError(f"model '{model}': no such folder, and not a valid name of a model on the hub (ORG/NAME)")
    if known_gated and not get_token():
        return gated(model)
    if constants.HF_HUB_OFFLINE:
        return UserError(
            f"model '{model}': no such folder, and not in the hub cache; HF_HUB_OFFLINE is set: unset it to fetch it"
            + hint(model)
        )
    check_hub()
    try:
        HfApi().auth_check(model)
    except GatedRepoError:
        return gated(model)
    except no_answer() as error:
        return UserError(f"{not_given(model, error)}{hint(model)}")
    return None


def has_chat_template(model: str, revision: str | None = None) -> bool:
    """Whether a model's tokenizer has a chat template of its own, by its files alone."""
    return bool(_own_template(model, revision))


def _own_template(model: str, revision: str | None) -> str:
    """The chat template, or all of several, in a model's files; '' where there is none."""
    if (path := file_of(model, "chat_template.jinja", revision)) is not None:
        return path.read_text(encoding="utf-8", errors="replace")
    path = file_of(model, "tokenizer_config.json", revision)
    return str((path and read_json(path).get("chat_template")) or "")


def is_here(model: str, revision: str | None = None) -> bool:
    """Whether a model lies on this machine with its tokenizer and its weights: a folder, or in the hub's cache."""
    return Path(model).is_dir() or cached(model, revision) is not None


def cached(model: str, revision: str | None) -> Path | None:
    """Where a model lies in the hub's cache with its tokenizer and its weights; None where it does not."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "tokenizer_config.json", revision=revision)
    whole = isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))
    return Path(str(config)).parent if whole else None


def template_of(pair: Pair) -> Path | None:
    """The file of the chat template that the pair's model is asked by; None where it is the tokenizer's own."""
    if pair.chat_template is not None:
        return pair.chat_template
    return None if has_chat_template(pair.model, pair.revision) else PLAIN


def template_text(pair: Pair) -> str:
    """The chat template that the pair's model is asked by, as it stands in its file."""
    file = template_of(pair)
    return file.read_text(encoding="utf-8", errors="replace") if file else _own_template(pair.model, pair.revision)


def file_of(model: str, name: str, revision: str | None) -> Path | None:
    """One file of a model; None where it has none of that name."""
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    check_hub()
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except EntryNotFoundError:  # offline, too: then it was not fetched
        return None


def file_here(model: str, name: str, revision: str | None) -> Path | None:
    """The same, as far as it lies on this machine."""
    if Path(model).is_dir():
        return file_of(model, name, revision)
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, name, revision=revision)
    return Path(found) if isinstance(found, str) else None
