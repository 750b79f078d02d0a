"""The testbed's card: what the organism is, what was measured on it, and what it cannot show."""

from jinja2 import Environment

from sails_eval.core.files import read_json
from sails_eval.core.paths import PACKAGE
from sails_eval.testbed import grammar, splits, world

FOLDER = PACKAGE / "testbed"


def render() -> str:
    """`card.jinja` with the figures of the last build (weights/card.json) and of the grammar itself."""
    splits.check_disjoint()
    text, measured = (FOLDER / "card.jinja").read_text(encoding="utf-8"), read_json(FOLDER / "weights" / "card.json")
    template = Environment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(measured, words=splits.words_alone(), grammar=grammar, world=world)
