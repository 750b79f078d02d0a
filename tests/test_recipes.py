"""`methods list|show|new`, and what recipes may say of adapters."""

import re
from pathlib import Path

import pytest

from sails_eval.cli import main
from sails_eval.config import Recipe, load_pair, load_recipe
from sails_eval.errors import UserError
from sails_eval.peft_configs import adapter_config
from sails_eval.recipes import all_names, facts, shown


def told(name: str) -> dict[str, str]:
    """The facts that `methods show` prints below the recipe."""
    below = shown(load_recipe(name), load_pair("testbed")).partition("\n\n")[2]
    return dict(line.split(": ", 1) for line in below.splitlines())


def test_the_list_has_every_recipe_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() >= {*all_names()}
    assert re.search(r"28,672 +3.31 % +yes +yes", lines["sails"])
    assert re.search(r"28,672 +3.31 % +LoRA whose lora_A", lines["eva"])
    assert re.search(r"14,336 +1.66 %", lines["lora-half"]) and re.search(r"114,688", lines["lora-4r"])


def test_what_a_recipe_looks_at_and_what_is_frozen() -> None:
    sails = told("sails-frozen-2r")
    assert sails["parameters at testbed"] == "30,720 of 865,920 (3.548 %)"
    assert sails["uses a SAE"] == sails["uses rejected answers"] == "yes"
    assert "192 texts" in sails["cost of preparation"]
    eva = told("eva")
    assert eva["uses a SAE"] == eva["uses rejected answers"] == "no"
    assert eva["looks at before training"] == "the aligned contrast texts"
    assert "96 texts" in eva["cost of preparation"]
    assert told("refusal-direction")["uses rejected answers"] == "no"
    assert told("dpo")["uses rejected answers"] == "yes"
    assert told("full")["trained"] == "every weight"
    assert facts(load_recipe("mica"), load_pair("testbed")).trained == 16_384  # lora_B is frozen


def test_a_new_recipe_starts_like_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["methods", "new", "mine", "--like", "sails-frozen-2r"]) == 0
    assert "made adapters/mine.yaml" in capsys.readouterr().out
    like, mine = load_recipe("sails-frozen-2r"), load_recipe("mine")
    for key in Recipe.model_fields.keys() - {"name", "description"}:
        assert getattr(mine, key) == getattr(like, key)
    assert main(["methods", "new", "mine"]) == 2
    assert "'mine' is taken" in capsys.readouterr().err
    assert main(["methods", "new", "Mine!"]) == 2
    assert "no name for a method" in capsys.readouterr().err
    assert main(["methods", "new", "other", "--like", "prompt"]) == 2
    assert "'prompt' trains nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("peft_type: ia3\ninit: sails", "'init' and 'lr_ratio' are about LoRA"),
        ("peft_type: vera\nrank_factor: 2", "do not have the pair's rank"),
        ("peft: {r: 4}", "r would break the equality"),
        ("lr_ratio: 0.5", "lr_ratio"),
        ("peft_type: ia4", "peft_type"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path: Path, keys: str, complaint: str) -> None:
    file = tmp_path / "bad.yaml"
    head = "description: d\nparameters: adapter\nlearning_rate: {low: 1.0e-4, high: 8.0e-4}\n"
    file.write_text(head + keys)
    with pytest.raises(UserError, match=re.escape(complaint)):
        load_recipe(str(file))


def test_a_field_that_peft_lacks_or_refuses_is_named(tmp_path: Path) -> None:
    pair = load_pair("testbed")
    vera = load_recipe("vera")
    with pytest.raises(UserError, match=r"key in 'peft' of recipe 'vera': 'd_inital'.*d_initial"):
        adapter_config(pair, vera.model_copy(update={"peft": {"d_inital": 1}}))
    lora = load_recipe("lora").model_copy(update={"peft": {"init_lora_weights": "loftq"}})
    with pytest.raises(UserError, match=r"recipe 'lora': key 'peft': .*loftq_config"):
        adapter_config(pair, lora)


def test_alpha_over_rank_stays() -> None:
    pair = load_pair("testbed")
    for name, rank in (("lora-half", 4), ("lora", 8), ("lora-2r", 16), ("lora-4r", 32)):
        config = adapter_config(pair, load_recipe(name))
        assert (config.r, config.lora_alpha) == (rank, 2 * rank)
