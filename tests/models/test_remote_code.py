"""Code in a model's repository is never run, and nothing asks at the terminal whether it may."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.models.base import context_of, load_base, load_tokenizer
from sails_eval.plan.cost.meta_model import shape_of


@pytest.mark.parametrize("read", [load_tokenizer, load_base, context_of, shape_of])
def test_a_models_own_code_is_neither_run_nor_asked_about(
    testbed_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Pair], Any]
) -> None:
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "n"

    monkeypatch.setattr("builtins.input", answer)
    folder = tmp_path / "model"
    shutil.copytree(testbed_pair.model, folder)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\nclass Own: pass\n")
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        own = dict.fromkeys(names, "own.Own") | {"AutoTokenizer": ["own.Own", None]}
        settings |= {"auto_map": own, "model_type": "own", "tokenizer_class": "Own"}
        (folder / name).write_text(json.dumps(settings))
    with pytest.raises((UserError, ValueError), match=r"custom code|own"):
        read(testbed_pair.model_copy(update={"model": str(folder)}))
    assert not asked and not (tmp_path / "was-run").exists()
