"""Data sets on the Hugging Face hub: their files are fetched once, and their rows streamed from there.

The files lie in the hub's own cache, so a run can be repeated without a network, and a commit names what was read.
"""

import atexit
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError, first_line, unknown
from sails_eval.core.network import check_network
from sails_eval.data.files import Row

SPEC = re.compile(r"hf:([^/@#\s]+/[^/@#\s]+)(?:/([^@#\s]+))?(?:@([^#\s]+))?(?:#(\S+))?")

CARD = "README.md"

SETTINGS = ".huggingface.yaml"
"""A second card, which the package datasets prefers to the one that was checked; nobody's data have one."""

OWN_FILE = "or use a local file: --train FILE, or 'data: FILE' in a pair's YAML"
"""The way out of a data set that cannot be had, for data that is trained on."""

FILES = ("*.json*", "*.csv*", "*.tsv*", "*.parquet", "*.arrow")
"""What holds rows, packed or not."""


@dataclass(frozen=True)
class HubData:
    """What hf:ORG/NAME[/CONFIG_OR_FOLDER][@REVISION][#SPLIT] says."""

    repo: str
    config: str | None = None
    revision: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        parts = (("/", self.config), ("@", self.revision), ("#", self.split))
        return f"hf:{self.repo}" + "".join(mark + part for mark, part in parts if part)


@dataclass(frozen=True)
class Fetched:
    """A data set's files on this machine, and what its card says of itself."""

    folder: Path
    card: dict[str, Any]

    @property
    def commit(self) -> str:
        """What the hub's cache calls the folder."""
        return self.folder.name


def parse_spec(text: str) -> HubData:
    """Raises UserError where the text is not of the form."""
    found = SPEC.fullmatch(text)
    if not found:
        raise UserError(f"'{text}': expected hf:ORG/NAME[/CONFIG_OR_FOLDER][@REVISION][#SPLIT]")
    return HubData(*found.groups())


@lru_cache(maxsize=32)
def fetch(data: HubData, way_out: str = OWN_FILE) -> Fetched:
    """Have the card and the files of the configuration here.

    Raises UserError where they cannot be had; its last words are the `way_out`.
    """
    from huggingface_hub import metadata_load

    path = snapshot(data, [CARD], way_out) / CARD
    try:
        card = (metadata_load(path) if path.is_file() else None) or {}
        _check_card(card)
    except UserError as error:
        raise UserError(f"{data}: its card {error}; {way_out}") from error
    except Exception as error:  # whatever a YAML parser makes of others' cards
        raise UserError(f"{data}: its card cannot be read ({first_line(error)}); {way_out}") from error
    config = _config(card, data)
    wanted = _patterns(config) if config else [f"{data.config}/{one}" if data.config else one for one in FILES]
    folder = snapshot(data, [CARD, *wanted], way_out)
    if (folder / SETTINGS).exists():
        raise UserError(f"{data}: a file {SETTINGS} there would be read in place of its card; {way_out}")
    return Fetched(folder, card)


def hub_rows(data: HubData, way_out: str = OWN_FILE) -> Iterator[Row]:
    """The rows of a split, one at a time; `train`, or the only split, where none is named.

    Raises UserError where the data set cannot be had (its last words are the `way_out`), there is no such
    configuration, folder or split, or a row cannot be read.
    """
    split = _split(data, fetch(data, way_out))
    number = 0
    try:
        for number, values in enumerate(split, start=1):
            yield Row(f"{data}: row {number}", values)
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{data}: row {number + 1} cannot be read ({first_line(error)})") from error


def _outlive_arrow() -> None:
    """Arrow's threads drop the files that they read a little after the last row: if Python ends before, it aborts."""
    time.sleep(0.1)


def _split(data: HubData, fetched: Fetched) -> Iterable[dict[str, Any]]:
    import datasets

    atexit.unregister(_outlive_arrow)  # once is enough
    atexit.register(_outlive_arrow)
    configs = _configs(fetched.card)
    if data.config and data.config not in configs and not (fetched.folder / data.config).is_dir():
        raise unknown(f"configuration or folder of hf:{data.repo}:", data.config, {*configs, *_folders(data, fetched)})
    named = {"name": data.config} if data.config in configs else {"data_dir": data.config}
    try:
        splits = datasets.load_dataset(str(fetched.folder), **named, streaming=True)
    except (ValueError, OSError) as error:  # what datasets raises where it finds no data
        known = f"; name one of its configurations: {', '.join(configs)}" if configs else ""
        raise UserError(f"{data}: no rows found ({first_line(error)}){known}") from error
    wanted = data.split or ("train" if "train" in splits else next(iter(splits)))
    if wanted not in splits or (data.split is None and "train" not in splits and len(splits) > 1):
        raise unknown(f"split of {data}:", data.split or "train", splits)
    found: Iterable[dict[str, Any]] = splits[wanted]
    if isinstance(found, datasets.IterableDataset) and found.features:
        found = found.decode(False)  # pictures and sounds are not read: they may be said to lie anywhere
    return found


def snapshot(data: HubData, patterns: list[str], way_out: str) -> Path:
    """The folder with the files that match. Raises UserError that says how to come by what cannot be had."""
    from huggingface_hub import constants, errors, snapshot_download

    page = f"{constants.ENDPOINT}/datasets/{data.repo}"
    if not constants.HF_HUB_OFFLINE:
        check_network()
    try:
        found = snapshot_download(data.repo, repo_type="dataset", revision=data.revision, allow_patterns=patterns)
    except errors.GatedRepoError as error:
        login = f"accept its terms at {page} and log in (hf auth login, or HF_TOKEN)"
        raise UserError(f"{data}: access is gated; {login}, {way_out}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{data}: no revision '{data.revision}'; for a list see {page}/commits/main") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{data}: no such data set on the hub, or it is private; check {page}, log in (hf auth login), {way_out}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "there is no network"
        raise UserError(
            f"{data}: not in the local hub cache, and {why}; download it once while online, {way_out}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{data}: download failed ({first_line(error)}); try again, {way_out}") from error
    return Path(found)


def _check_card(card: Any) -> None:
    """Raises UserError where a card is none, or names data outside its repository: a URL, an absolute path, a parent
    folder. What reads the files would fetch those."""
    if not isinstance(card, dict) or not isinstance(card.get("configs") or [], list):
        raise UserError("is not valid; expected keys and values, with a list of 'configs'")
    for config in card.get("configs") or []:
        if not isinstance(config, dict) or not isinstance(config.get("config_name"), str):
            raise UserError("is not valid; each of its 'configs' needs a 'config_name'")
        if not isinstance(config.get("data_dir") or "", str):
            raise UserError("is not valid; 'data_dir' is not a text")
        for place in [*_texts(config.get("data_files")), config.get("data_dir") or ""]:
            if "://" in place or "::" in place or Path(place).is_absolute() or ".." in re.split(r"[/\\]", place):
                raise UserError(f"names data outside its repository ({place!r:.60}), which is not read")


def _texts(declared: Any) -> Iterator[str]:
    """The patterns in `data_files`: a text, a list of them, or a list of splits with theirs."""
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        for item in declared:
            yield from _texts(item)
    elif isinstance(declared, dict) and declared.keys() <= {"split", "path"}:
        yield from _texts(declared.get("path"))
    elif declared is not None:
        raise UserError("is not valid; 'data_files' is not a pattern, a list of patterns or of splits with a 'path'")


def _configs(card: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The configurations that a card declares, by name."""
    return {config["config_name"]: config for config in card.get("configs") or []}


def _config(card: dict[str, Any], data: HubData) -> dict[str, Any] | None:
    """The declared configuration that is asked for; where none is, the default or only one."""
    configs = _configs(card)
    if data.config is not None:
        return configs.get(data.config)
    default = [name for name, config in configs.items() if config.get("default") or name == "default"]
    names = default or (list(configs) if len(configs) == 1 else [])
    return configs[names[0]] if names else None


def _folders(data: HubData, fetched: Fetched) -> list[str]:
    """The folders of a data set: all of them where the hub tells, else those that are here."""
    from huggingface_hub import HfApi

    try:
        tree = list(HfApi().list_repo_tree(data.repo, repo_type="dataset", revision=fetched.commit))
    except OSError:  # no network, or not asked for
        return [path.name for path in fetched.folder.iterdir() if path.is_dir()]
    return [item.path for item in tree if not hasattr(item, "size")]


def _patterns(config: dict[str, Any]) -> list[str]:
    """The files of a configuration: a pattern, patterns, splits with theirs, or all of its folder."""
    within = f"{config['data_dir'].rstrip('/')}/" if config.get("data_dir") else ""
    declared = config.get("data_files", "*")
    found: list[str] = []
    for item in declared if isinstance(declared, list) else [declared]:
        paths = item["path"] if isinstance(item, dict) else item
        found += [within + path for path in (paths if isinstance(paths, list) else [paths])]
    return found
