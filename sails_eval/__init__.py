"""sails-eval: which fine-tuning method makes a model safest without making it useless, at the same budget?"""

from typing import Any

from sails_eval.core.version import __version__

__all__ = ["__version__", "get_sails_state_dict", "initialize_lora_sails_weights"]


def __getattr__(name: str) -> Any:
    """Import the torch-heavy public names on first use, so that `import sails_eval` stays cheap."""
    if name in ("get_sails_state_dict", "initialize_lora_sails_weights"):
        from sails_eval.methods import sails

        return getattr(sails, name)
    raise AttributeError(f"module 'sails_eval' has no attribute {name!r}")
