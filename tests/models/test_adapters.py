"""What PEFT refuses of an adapter is told as an error of the key that asks for it."""

import pytest
from peft import LoraConfig

from sails_eval.core.errors import UserError
from sails_eval.models.adapters import add_adapter
from sails_eval.models.base import Base


def test_modules_that_peft_refuses_are_an_error_in_one_line(testbed_base: Base) -> None:
    with pytest.raises(UserError, match=r"^key 'peft': PEFT cannot make such an adapter: .*nowhere"):
        add_adapter(testbed_base.model, LoraConfig(target_modules=["nowhere"]))
