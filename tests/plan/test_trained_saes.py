"""SAEs that were trained here, on their way into a comparison: found by the pair, measured, refused where poor."""

from pathlib import Path

import pytest

from sails_eval.cli import main
from sails_eval.core.pair import SaeSource, load_pair
from sails_eval.methods.subspace.layers import fix_of

TRAIN = "saes train --pair mine.yaml --features 64 --l0 8 --tokens 600 --batch-size 64 -q"


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pair whose SAE is to be trained, in a folder to work in with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(tmp_path / "cache"))
    sae = "{path: $SAILS_EVAL_CACHE/saes/mine/layer_1, layer: 1, training_tokens: 1200, passes: 2, self_trained: true}"
    Path("mine.yaml").write_text(f"like: testbed\nsaes: [{sae}]\n")
    return tmp_path / "cache" / "saes" / "mine" / "layer_1"


@pytest.mark.slow
def test_the_pair_finds_what_was_trained_for_it(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("pairs check mine.yaml".split()) == 0
    told = capsys.readouterr().out
    assert f"missing  SAE {pair}: no cfg.json there; train it: sails-eval saes train --pair mine" in told
    assert main("plan --pair mine.yaml --methods sails".split()) == 2
    assert "no such folder; train it: sails-eval saes train --pair mine" in capsys.readouterr().out
    assert main([*TRAIN.split(), "--layers", "1"]) == 0
    capsys.readouterr()
    assert load_pair("mine.yaml").saes[0].path == pair and (pair / "cfg.json").is_file()
    main("pairs check mine.yaml".split())
    told = capsys.readouterr().out
    assert "missing" not in told and f"SAE {pair}: L0" in told


def test_saes_are_looked_for_only_by_methods_that_read_them(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("plan --pair mine.yaml --methods lora".split()) == 0
    assert "saes train" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_poor_sae_stops_a_method_that_reads_it_unless_it_is_allowed(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SAE of the first layer's output, given as that of the third's."""
    good = load_pair("testbed").saes[0].path
    Path("poor.yaml").write_text(f"like: testbed\nsaes: [{{path: {good}, layer: 3}}]\n")
    train = "train {} --pair poor.yaml --tokens 200 --batch-size 4 --learning-rate 0.001 --out {} -q"
    assert main(train.format("sails", "refused").split()) == 2
    assert "the SAE of layer 3 explains only" in capsys.readouterr().err
    assert main([*train.format("sails", "allowed").split(), "--allow-poor-saes"]) == 0
    assert main(train.format("random-orthonormal", "reads-none").split()) == 0


def test_what_to_do_about_a_missing_sae_depends_on_who_makes_it(pair: Path) -> None:
    assert fix_of(pair, "look elsewhere").startswith("train it: sails-eval saes train --pair mine")
    assert fix_of(pair.parents[3] / "layer_1", "look elsewhere") == "look elsewhere"


def test_repeated_tokens_are_read_by_the_model_once() -> None:
    from sails_eval.plan.cost.meta_model import shape_of
    from sails_eval.plan.cost.method_cost import sae_training_flops

    pair = load_pair("testbed")
    told = {"path": pair.saes[0].path, "self_trained": True, "training_tokens": 1000}
    once, twice, half = (
        sae_training_flops([SaeSource.model_validate({**told, **more})], pair, shape_of(pair))
        for more in ({}, {"passes": 2}, {"training_tokens": 500})
    )
    assert half < twice < once
