"""Models that are not here, and a hub that cannot be asked."""

import pytest
from huggingface_hub import constants

from sails_eval.models.hub import lacks_access


def test_a_hub_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    lack = lacks_access("org/model", None, known_gated=False)
    assert str(lack).startswith("model 'org/model': no such folder, and cannot be fetched from the hub: ")
