"""What `mkdocs build` adds to docs/: pages that lie elsewhere in the repository, the reference, and links that hold.

A hook of mkdocs.yml. Links are written as they work in the repository, relative to their file. On the site, those to
pages of the site lead there and those to other files to the repository's address. One that leads nowhere is a warning,
which `--strict` makes an error.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts import docs_reference

LOG = logging.getLogger("mkdocs.hooks.docs_site")
ROOT = Path(__file__).resolve().parents[1]

ELSEWHERE = {
    "README.md": "index.md",
    "leaderboards/README.md": "results/boards.md",
    "leaderboards/testbed.md": "results/testbed.md",
    "leaderboards/testbed-planted.md": "results/testbed-planted.md",
    "leaderboards/testbed-methods.md": "results/testbed-methods.md",
    "benchmarks/README.md": "results/benchmarks.md",
    "RESPONSIBLE_USE.md": "project/responsible-use.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Files outside docs/, from the repository's top, that are pages of the site: where they are there."""

GENERATED = {
    "reference/commands.md": docs_reference.commands,
    "reference/keys.md": docs_reference.keys,
    "reference/python.md": docs_reference.python,
}

LINK = re.compile(r"(?P<open>\]\()(?P<to>(?!https?:|mailto:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    config.site_url, config.repo_url = urls["Documentation"], urls["Source"]
    config.repo_name = "sails-eval"
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for page, written in GENERATED.items():
        files.append(File.generated(config, page, content=written()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    source = next((path for path, place in ELSEWHERE.items() if place == here), f"docs/{here}")
    return rewritten(markdown, source=source, page=here, repository=str(config.repo_url))


def rewritten(markdown: str, *, source: str, page: str, repository: str) -> str:
    """The text of a file of the repository with its links as they work on a page of the site; code stays as it is."""

    def place(link: re.Match[str]) -> str:
        target = os.path.normpath(Path(source).parent / link["to"])
        anchor = link["anchor"] or ""
        if not (ROOT / target).exists() and page not in GENERATED:
            LOG.warning("%s links to %s, which is not there", source, link["to"])
        if target in ELSEWHERE or target.startswith("docs/"):
            there = ELSEWHERE.get(target, target.removeprefix("docs/"))
            return f"{link['open']}{os.path.relpath(there, Path(page).parent)}{anchor})"
        return f"{link['open']}{repository}/blob/main/{target}{anchor})"

    fences = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(place, part) for part in fences)
