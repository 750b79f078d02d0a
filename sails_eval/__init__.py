"""sails-eval: compare safety fine-tuning methods on language models at equal budgets.

`compare` and `evaluate` do the work, `load_run` opens a finished run, and each returns a `Run`. Errors that the caller
can fix are raised as `UserError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sails_eval.core.errors import UserError
from sails_eval.core.version import __version__

if TYPE_CHECKING:
    from sails_eval.api import compare, evaluate, load_run
    from sails_eval.api.run import Run
    from sails_eval.methods.sails import get_sails_state_dict, initialize_lora_sails_weights

__all__ = [
    "Run",
    "UserError",
    "__version__",
    "compare",
    "evaluate",
    "get_sails_state_dict",
    "initialize_lora_sails_weights",
    "load_run",
]

_LATE = {
    "Run": "sails_eval.api.run",
    **dict.fromkeys(("compare", "evaluate", "load_run"), "sails_eval.api"),
    **dict.fromkeys(("get_sails_state_dict", "initialize_lora_sails_weights"), "sails_eval.methods.sails"),
}
"""Where public names are that take pandas or torch: imported on first use, so that `import sails_eval` stays cheap."""


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return vars(import_module(_LATE[name]))[name]
    raise AttributeError(f"module 'sails_eval' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
