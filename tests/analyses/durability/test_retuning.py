"""What is done to a model before it answers again, and that nothing of it stays."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sails_eval.analyses.durability import attacks, retuning
from sails_eval.analyses.durability.attacks import Attack, Attacked, Retuning, order_of
from sails_eval.analyses.durability.retuning import attacked, merged
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.training_settings import Regularise
from sails_eval.models.base import Base, applied
from sails_eval.models.chat import encode_chat
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.training.regularise import KlPenalty

HARMFUL = Attack("harmful", 10)


@pytest.fixture
def adapter(testbed_pair: Pair) -> Path:
    return Path(testbed_pair.references["testbed-preference"])


@pytest.fixture
def base(testbed_base: Base, monkeypatch: pytest.MonkeyPatch) -> Base:
    for module in (attacks, retuning):
        monkeypatch.setattr(module, "RETUNING", Retuning(epochs=2))
    monkeypatch.setattr(retuning, "base_of", lambda pair: testbed_base)
    return testbed_base


@torch.no_grad()
def logits(base: Base, model: Any) -> torch.Tensor:
    ids = torch.tensor([encode_chat(base.tokenizer, [{"role": "user", "content": "how do i boil rice ?"}])])
    found: torch.Tensor = model(ids).logits.clone()
    return found


def test_an_attack_is_written_and_read_alike() -> None:
    for text in attacks.DEFAULT:
        assert str(Attack.parse(text)) == text
    assert {Attack.parse(text).folder for text in ("benign:10", "quantise:4bit", "merge")} == {
        "benign-10", "quantise-4bit", "merge",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "benign", "benign:0", "benign:x", "harmful:-1", "quantise:2bit", "merge:1", "a:10"]
)
def test_what_is_no_attack_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="give benign:N, harmful:N, quantise:4bit or merge"):
        Attack.parse(text)


def test_few_examples_are_among_the_many_and_seeds_draw_others() -> None:
    ten, hundred = (order_of(128, Attack("harmful", n), seed=0) for n in (10, 100))
    assert (len(ten), len(hundred)) == (50, 500)  # five passes each
    assert len(order_of(128, Attack("harmful", 3), seed=0)) == 20  # whole batches of ten
    assert len(set(ten)) == 10 and len(set(hundred)) == 100 and set(ten) < set(hundred)
    assert order_of(128, Attack("benign", 10), seed=0) == ten  # nothing but seed and number counts
    assert order_of(128, HARMFUL, seed=1) != ten


def test_what_stands_in_an_attacks_way(testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HARMFUL.obstacle(testbed_pair) is None
    assert "has only 128 examples" in str(Attack("benign", 129).obstacle(testbed_pair))
    bare = Pair(name="mine", model="m")
    assert "add 'attack: {harmful: FILE}' to its YAML" in str(HARMFUL.obstacle(bare))
    assert Attack("merge").obstacle(bare) is None
    monkeypatch.setattr(attacks, "find_spec", lambda name: None)
    assert "pip install 'sails-eval[quantise]'" in str(Attack("quantise").obstacle(bare))


def test_examples_that_are_too_long_do_not_count(base: Base, testbed_pair: Pair) -> None:
    assert len(retuning.rows_of(testbed_pair, HARMFUL)) == 128
    with pytest.raises(
        UserError, match=r"--attack harmful:10: .* has 0 examples whose request is shorter than max_len"
    ):
        retuning.rows_of(testbed_pair.model_copy(update={"max_length": 2}), HARMFUL)


def test_an_identity_holds_data_settings_and_number(testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    own = HARMFUL.identity(testbed_pair)
    assert own == HARMFUL.identity(testbed_pair.model_copy(update={"tokens": 1, "train": None}))
    others = [Attack("harmful", 11).identity(testbed_pair), Attack("benign", 10).identity(testbed_pair)]
    others.append(HARMFUL.identity(testbed_pair.model_copy(update={"rank": 3})))
    monkeypatch.setattr(attacks, "RETUNING", Retuning(epochs=2))
    others.append(HARMFUL.identity(testbed_pair))
    assert own not in others


def test_a_merged_adapter_says_the_same_and_comes_off_again(base: Base, adapter: Path) -> None:
    before = logits(base, base.model)
    with applied(base, adapter) as model:
        unmerged = logits(base, model)
    with merged(base, adapter) as model:
        assert not [name for name, _ in model.named_parameters() if "lora" in name]
        assert torch.allclose(logits(base, model), unmerged, atol=1e-3)
        assert not torch.allclose(before, unmerged, atol=1e-1)
    assert torch.equal(logits(base, base.model), before)


@pytest.mark.parametrize("fails", [False, True])
def test_retuned_weights_are_gone_when_the_model_has_answered(
    base: Base, testbed_pair: Pair, adapter: Path, tmp_path: Path, fails: bool
) -> None:
    before, subject = (
        logits(base, base.model),
        Attacked("m", ModelFolder(tmp_path / "m"), adapter, attack=HARMFUL, seed=0),
    )
    with merged(base, adapter) as model:
        aligned = logits(base, model)
    try:
        with attacked(base, testbed_pair, subject) as model:
            assert list(tmp_path.rglob("*.safetensors")) and (tmp_path / "m/.retuned").stat().st_mode & 0o777 == 0o700
            assert not torch.allclose(logits(base, model), aligned, atol=1e-2)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert torch.equal(logits(base, base.model), before)


def test_the_attacker_does_not_regularise(
    base: Base, testbed_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(KlPenalty, "of", made)
    pair = testbed_pair.model_copy(update={"regularise": Regularise(kl=1.0)})
    with attacked(base, pair, Attacked("m", ModelFolder(tmp_path / "m"), attack=HARMFUL, seed=0)):
        pass


@pytest.mark.quantise
def test_four_bits_change_a_model_a_little_and_a_copy_only(base: Base, testbed_pair: Pair, tmp_path: Path) -> None:
    before = logits(base, base.model)
    subject = Attacked("m", ModelFolder(tmp_path), attack=Attack("quantise"))
    with attacked(base, testbed_pair, subject) as model:
        after = logits(base, model)
    assert torch.equal(logits(base, base.model), before)
    assert 1e-3 < float((after - before).abs().max()) < 5
