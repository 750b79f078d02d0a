"""What tests of engines share."""

from pathlib import Path

import pytest

from sails_eval.core.pair import Pair
from sails_eval.models.base import Base


@pytest.fixture(scope="module")
def inert(testbed_base: Base, testbed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes nothing: fresh from PEFT."""
    from peft import get_peft_model

    from sails_eval.core.recipe import load_recipe
    from sails_eval.models.adapters import adapter_config

    folder = tmp_path_factory.mktemp("inert") / "inert"
    model = get_peft_model(testbed_base.model, adapter_config(testbed_pair, load_recipe("lora")))
    model.save_pretrained(str(folder))
    model.unload()
    return folder
