"""The first lines on the screen, before anything slow is imported."""

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.pair import EMBEDDED
from sails_eval.core.tables import wrapped

QUICK_BANNER = "--quick is a smoke test: it shows that everything runs, but not which method is better"


def opening(config: CompareConfig) -> list[str]:
    """The lines that need nothing but the configuration: what this runs on and, where nobody said, how to say."""
    lines = [wrapped(QUICK_BANNER)] if config.quick else []
    if config.against is not None:
        return [*lines, f"extending {config.against} by {', '.join(config.add) or 'references'}"]
    on = f"{', '.join(config.methods)} on {config.model or ', '.join(config.pairs)}"
    if config.pair is None and config.model is None and config.organisms is None:
        on += f" ({EMBEDDED} is the embedded pair; for another model: --pair NAME or --model MODEL)"
    return [*lines, wrapped(on)]
