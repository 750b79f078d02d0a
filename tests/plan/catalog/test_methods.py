"""`methods list|show|new`, and what recipes may say of adapters."""

import re
from pathlib import Path

import pytest

from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import Recipe, load_recipe
from sails_eval.models.adapters import adapter_config
from sails_eval.plan.catalog.methods import all_names, facts, shown


def told(name: str) -> dict[str, str]:
    """The facts that `methods show` prints below the recipe."""
    below = shown(load_recipe(name), load_pair("testbed")).partition("\n\n")[2]
    return dict(line.split(": ", 1) for line in below.splitlines())


def test_the_list_has_every_recipe_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() >= {*all_names()}
    assert re.search(r"28,672 +3.19 % +yes +yes", lines["sails"])
    assert re.search(r"28,672 +3.19 % +LoRA whose lora_A", lines["eva"])
    assert re.search(r"14,336 +1.6 %", lines["lora-half"]) and re.search(r"114,688", lines["lora-4r"])


def test_what_a_recipe_looks_at_and_what_is_frozen() -> None:
    sails = told("sails-frozen-2r")
    assert sails["parameters on testbed"] == "30,720 of 898,304 (3.420 %)"
    assert sails["uses SAEs"] == sails["uses rejected answers"] == "yes"
    reading = r"about [\d.]+e\+\d\d FLOPs to read contrast texts, once for each seed; "
    assert re.match(reading + r"3.1e\+12 FLOPs to train the SAEs", sails["cost of preparation"])
    assert sails["source"] == "SAILS, arXiv 2512.23260" and told("full")["source"] == "none"
    eva = told("eva")
    assert eva["uses SAEs"] == eva["uses rejected answers"] == "no"
    assert eva["needed before training"] == "the aligned contrast texts"
    assert re.match(r"at least [\d.]+e\+\d\d FLOPs", eva["cost of preparation"])
    assert told("pissa")["cost of preparation"].startswith("decomposing the weights")
    assert told("safe-lora")["needed before training"] == "an aligned model (testbed-preference)"
    assert told("adalora")["trained"].endswith("rank 8, reduced from 12")
    assert told("refusal-direction")["uses rejected answers"] == "no"
    assert told("dpo")["uses rejected answers"] == "yes"
    assert told("full")["trained"] == "every weight"
    assert facts(load_recipe("mica"), load_pair("testbed")).trained == 16_384  # lora_B is frozen


def test_what_a_pair_has_not_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not available on pair 'testbed': method 'oracle' needs a planted subspace" in shown(
        load_recipe("oracle"), load_pair("testbed")
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters/broken.yaml").write_text("like: nosuch\n")
    (tmp_path / "bare.yaml").write_text("{like: testbed, references: {}, sae_sets: {}, requests: null}")
    assert main(["methods", "list", "--pair", "bare.yaml"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "Not available here: adapters/broken.yaml: key 'like': unknown method 'nosuch'" in lines["broken"]
    lacks = {
        "oracle": "planted",
        "safe-lora": "aligned model",
        "sails-narrow": "'narrow'",
    }
    for name, lack in lacks.items():
        assert "Not available here: " in lines[name] and lack in lines[name].partition("Not available here: ")[2]
    assert "Not available here" not in lines["sails"]


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
    assert "'mine' already exists" in capsys.readouterr().err
    assert main(["methods", "new", "second", "--like", "adapters/mine.yaml", "--dir", "elsewhere"]) == 0
    assert "compare --methods elsewhere/second.yaml,lora" in capsys.readouterr().out
    assert load_recipe("elsewhere/second.yaml").settings == mine.settings
    Path("plain.yaml").write_text("description: d\nparameters: all\nlearning_rate: {low: 1.0e-5, high: 8.0e-5}\n")
    assert main(["methods", "new", "third", "--like", "plain.yaml"]) == 0
    assert load_recipe("third").parameters == "all"
    assert main(["methods", "new", "mine.yaml"]) == 2 and main(["methods", "new", "Mine!"]) == 2
    assert "not a valid method name" in capsys.readouterr().err
    assert main(["methods", "new", "other", "--like", "prompt"]) == 2
    assert "--like prompt: this method trains nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ("peft_type: ia3\ninit: sails", "'init' and 'lr_ratio' are for LoRA only"),
        ("peft_type: vera\nrank_factor: 2", "do not use the pair's rank"),
        ("peft: {r: 4}", "r cannot be set here"),
        ("peft: {lora_dropout: 0.1}", "lora_dropout would regularise one method only"),
        ("peft_type: oft\npeft: {coft: true}", "coft would regularise one method only"),
        ("peft_type: vera\npeft: {init_weights: false}", "init_weights=False may change the model's outputs"),
        ("init: sails\npeft: {init_lora_weights: pissa}", "init_lora_weights=pissa and init=sails are both"),
        ("peft: {init_lora_weights: loftq}", "init_lora_weights=loftq is not one of"),
        ("peft: {init_lora_weights: false}", "init_lora_weights=False is not one of"),
        ("peft: {init_lora_weights: pissa}\nobjective: dpo", "changes the base weights"),
        ("peft_type: adalora\nobjective: dpo", "PEFT does not allow for adalora"),
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
    oft = load_recipe("oft").model_copy(update={"peft": {"oft_block_size": 0}})
    with pytest.raises(UserError, match=r"recipe 'oft': key 'peft': .*oft_block_size"):
        adapter_config(pair, oft)


def test_alpha_over_rank_stays() -> None:
    pair = load_pair("testbed")
    for name, rank in (("lora-half", 4), ("lora", 8), ("lora-2r", 16), ("lora-4r", 32)):
        config = adapter_config(pair, load_recipe(name))
        assert (config.r, config.lora_alpha) == (rank, 2 * rank)
