"""SAEs that are trained here: the right vectors, saved as SAELens reads them, and the same whoever interrupts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from sails_eval.core.errors import UserError

if TYPE_CHECKING:
    from sails_eval.core.pair import Pair
    from sails_eval.methods.subspace.sae_training import SaeSettings
    from sails_eval.models.base import Base

Trained = tuple[Path, Any]
"""A folder with SAEs, and its record."""

SMALL = {"layers": (1, 3), "features": 128, "l0": 8, "tokens": 6000, "passes": 2, "batch_size": 128, "context": 64}


def small(**changes: Any) -> SaeSettings:
    from sails_eval.methods.subspace.sae_training import SaeSettings

    return SaeSettings.model_validate({**SMALL, **changes})


def train(pair: Pair, folder: Path, **changes: Any) -> Any:
    from sails_eval.methods.subspace.sae_folder import train_for

    assert pair.train is not None
    return train_for(pair, pair.train, small(**changes), folder=folder, quiet=True)


@pytest.fixture(scope="module")
def trained(testbed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("saes")
    return folder, train(testbed_pair, folder)


# --- which tokens count ---------------------------------------------------------------------------------------------


def pairs_file(folder: Path) -> Path:
    rows = [
        {"prompt": f"Question number {n}?", "chosen": f"Sorry, not {n}.", "rejected": f"Sure, take {n} of them."}
        for n in range(20)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def test_what_two_answers_have_in_common_counts_once(tokenizer: Any, tmp_path: Path) -> None:
    from sails_eval.methods.subspace.text_windows import windows

    found = list(windows(tokenizer, pairs_file(tmp_path), context=256, seed=0))
    assert len(found) == 40
    assert [window.start for window in found[:20]] == [1] * 20
    for first, second in zip(found[:20], found[20:], strict=True):
        assert list(first.ids[: second.start]) == list(second.ids[: second.start])
        assert first.ids[second.start] != second.ids[second.start]
    text = tokenizer.decode(found[0].ids)
    assert text.startswith("<|user|>\nQuestion number")  # as the chat template has it
    firsts = {"Sorry" in tokenizer.decode(window.ids) for window in found[:20]}
    assert firsts == {True, False}  # either kind of answer is read early


def test_running_text_is_cut_into_windows_that_all_open_alike(testbed_base: Base, tmp_path: Path) -> None:
    from sails_eval.methods.subspace.text_windows import windows

    path = tmp_path / "notes.txt"
    path.write_text("One two three. " * 40 + "\r\n\r\nA second paragraph.\n")
    tokenizer = testbed_base.tokenizer
    found = list(windows(tokenizer, path, context=32, seed=0))
    assert all(len(window.ids) <= 32 for window in found)
    assert {window.ids[0] for window in found} == {tokenizer.bos_token_id}
    whole = tokenizer("One two three. " * 40, add_special_tokens=False)["input_ids"]
    assert [token for window in found[:-1] for token in window.ids[1:]] == whole


def test_outliers_and_first_tokens_are_left_out(testbed_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    from sails_eval.methods.subspace import activations as module
    from sails_eval.methods.subspace.text_windows import Window

    windows = [Window([2, 5, 6, 7, 8]), Window([2, 9, 10], start=2)]
    plain = module.activations(testbed_base.model, [1, 2], windows)
    assert {layer: len(rows) for layer, rows in plain.items()} == {1: 5, 2: 5}
    real = module.residual_streams

    def with_sink(*given: Any) -> list[tuple[int, torch.Tensor]]:
        found = real(*given)
        return [
            (layer, stream * (1 + 100 * (given[2] == 7))[..., None] if layer == 2 else stream)
            for layer, stream in found
        ]

    monkeypatch.setattr(module, "residual_streams", with_sink)
    without = module.activations(testbed_base.model, [1, 2], windows)
    assert {layer: len(rows) for layer, rows in without.items()} == {1: 4, 2: 4}  # an outlier at one layer leaves both


# --- what is saved --------------------------------------------------------------------------------------------------


def test_saes_are_jumprelu_and_read_raw_activations(testbed_pair: Pair, testbed_base: Base, trained: Trained) -> None:
    from sae_lens import SAE

    from sails_eval.methods.subspace.activations import activations
    from sails_eval.methods.subspace.sae_quality import quality
    from sails_eval.methods.subspace.sae_training import grouped
    from sails_eval.methods.subspace.text_windows import windows

    folder, record = trained
    assert testbed_pair.train is not None
    text = windows(testbed_base.tokenizer, testbed_pair.train, context=64, seed=0)
    held_out = activations(testbed_base.model, [1, 3], next(grouped(text, [600])))
    for layer in (1, 3):
        sae = SAE.load_from_disk(str(folder / f"layer_{layer}"))
        assert (sae.cfg.architecture(), sae.cfg.normalize_activations) == ("jumprelu", "none")
        assert sae.cfg.metadata.hook_name == f"model.layers.{layer}"
        found = quality(sae, held_out[layer])
        assert found.explained == pytest.approx(record.layers[layer].explained, abs=1e-3)
        assert found.l0 == pytest.approx(record.layers[layer].l0, abs=1e-3)
        assert found.explained > 0.5
        assert 0.5 * SMALL["l0"] < found.l0 < 2 * SMALL["l0"]  # type: ignore[operator]  # the threshold was learnt


def test_a_scale_that_is_not_folded_in_would_show(testbed_base: Base, trained: Trained, testbed_pair: Pair) -> None:
    """The test above can fail: the same SAE on activations of another scale explains next to nothing."""
    from sae_lens import SAE

    from sails_eval.methods.subspace.activations import activations
    from sails_eval.methods.subspace.sae_quality import USABLE, quality
    from sails_eval.methods.subspace.text_windows import Window
    from sails_eval.training.batches import training_rows

    rows = [Window(row.input_ids) for row in training_rows(testbed_pair)[:32]]
    vectors = activations(testbed_base.model, [1], rows)[1]
    sae = SAE.load_from_disk(str(trained[0] / "layer_1"))
    assert quality(sae, vectors).explained > USABLE
    assert quality(sae, vectors * 0.1).explained < USABLE


def test_the_card_says_what_was_measured_and_nothing_of_the_machine(trained: Trained) -> None:
    folder, record = trained
    card = (folder / "README.md").read_text()
    for layer, one in record.layers.items():
        assert f"| {layer} | {one.explained:.3f} |" in card
    for path in (folder / "README.md", folder / "training.json"):
        assert str(folder.parent) not in path.read_text()
    assert not (folder / ".training").exists()


def test_nothing_is_trained_twice(trained: Trained, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from sails_eval.methods.subspace import sae_folder

    monkeypatch.setattr(sae_folder, "train_saes", lambda *given, **named: pytest.fail("trained again"))
    assert train(testbed_pair, trained[0]) == trained[1]


@pytest.mark.slow
def test_whoever_interrupts_gets_the_same_bytes(
    testbed_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sails_eval.methods.subspace import sae_training

    monkeypatch.setattr(sae_training, "CHUNK", 1500)
    train(testbed_pair, tmp_path / "whole")
    real, calls = sae_training.Saes.train, iter(range(99))

    def killed(*given: Any, **named: Any) -> Iterator[Any]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sae_training.Saes, "train", killed)
        train(testbed_pair, tmp_path / "resumed")
    kept = [path.name for path in (tmp_path / "resumed" / ".training").iterdir()]
    assert [name[:12] for name in kept] == ["chunk-000002"]
    seen: list[int] = []

    def counted(*given: Any, **named: Any) -> Iterator[Any]:
        seen.append(named["seed"])
        return real(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(sae_training.Saes, "train", counted)
        train(testbed_pair, tmp_path / "resumed")
    assert seen == [2, 3]  # of four chunks
    for layer in (1, 3):
        one, other = (
            (tmp_path / run / f"layer_{layer}" / "sae_weights.safetensors").read_bytes() for run in ("whole", "resumed")
        )
        assert one == other


def test_memory_does_not_grow_with_the_text() -> None:
    from sails_eval.methods.subspace.sae_training import grouped
    from sails_eval.methods.subspace.text_windows import Window

    def endless() -> Iterator[Window]:
        while True:
            yield Window([1] * 101)

    sizes = [sum(window.tokens for window in group) for group in grouped(endless(), [50, 1000, 1000, 30])]
    assert sizes == [100, 1000, 1000, 100]


def test_a_feature_that_never_fired_is_dead_however_short_the_training(testbed_base: Base, tmp_path: Path) -> None:
    """SAELens calls none dead before `DEAD_AFTER` tokens have gone by."""
    from sails_eval.methods.subspace.sae_training import Saes

    rows = {1: torch.randn(256, testbed_base.model.config.hidden_size)}
    saes = Saes(testbed_base.model, small(layers=(1,), tokens=256))
    with torch.no_grad():
        saes.trainers[1].sae.W_enc[:, 96:] = 0
        saes.trainers[1].sae.b_enc[96:] = -1000
    assert list(saes.train(rows, seed=0))
    assert 0.25 <= saes.finish(rows, tmp_path)[1].dead < 1


def test_dead_features_are_revived(testbed_base: Base) -> None:
    """A feature that never fires gets no gradient but that of SAELens's auxiliary loss."""
    from sails_eval.methods.subspace.sae_training import _trainer

    settings = small(layers=(1,), features=64, l0=4, tokens=4096, passes=1)
    torch.manual_seed(0)
    vectors = torch.randn(16, testbed_base.model.config.hidden_size).repeat(8, 1)
    trainer = _trainer(vectors.shape[1], 1, settings, "cpu")
    trainer.activation_scaler.scaling_factor = 1.0
    trainer.n_forward_passes_since_fired[32:] = 10**6
    before = trainer.sae.W_enc.detach()[:, 32:].clone()
    with torch.no_grad():
        trainer.sae.b_enc[32:] = -10
    trainer.step(vectors)
    assert trainer.dead_neurons.sum() == 32
    assert (trainer.sae.W_enc[:, 32:] != before).any()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokens": 10**9}, "give --tokens [0-9]+ or fewer, or longer --texts"),
        ({"layers": (1, 4)}, "--layers 4: model '.*' has 4 layers, counted from 0"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_model_is_loaded(
    testbed_pair: Pair, tmp_path: Path, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sails_eval.methods.subspace import sae_folder

    monkeypatch.setattr(sae_folder, "base_of", lambda pair: pytest.fail("loaded"))
    with pytest.raises(UserError, match=told):
        train(testbed_pair, tmp_path, **changes)


def test_a_training_that_never_began_is_in_nobodys_way(testbed_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --tokens"):
        train(testbed_pair, tmp_path, tokens=10**9)
    assert train(testbed_pair, tmp_path, tokens=600, layers=(1,)).layers.keys() == {1}


def test_wrong_settings_are_one_line_that_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    from sails_eval.cli import main

    assert main(["saes", "train"]) == 2
    assert "no model; give --pair NAME or --model MODEL" in capsys.readouterr().err
    assert main("saes train --pair testbed --features 8 --l0 9".split()) == 2
    assert "'l0': 9 of 8 features cannot be active on average" in capsys.readouterr().err
    assert main("saes train --pair testbed --features 1".split()) == 2
    assert "--features: input should be greater than or equal to 2" in capsys.readouterr().err
    assert main(["saes", "train", "--pair", "testbed", "--seed", str(2**64)]) == 2
    assert "--seed: input should be less than 4294967296" in capsys.readouterr().err


def test_the_number_of_tokens_that_the_message_gives_will_do(testbed_pair: Pair, tmp_path: Path) -> None:
    import re

    from sails_eval.methods.subspace.sae_training import check_length
    from sails_eval.methods.subspace.text_windows import Window

    text = [Window([1] * 30)] * 10
    with pytest.raises(UserError) as error:
        check_length(text, small(tokens=1000))
    told = re.search(r"--tokens (\d+)", str(error.value))
    assert told
    check_length(text, small(tokens=int(told.group(1))))
    with pytest.raises(UserError):
        check_length(text, small(tokens=int(told.group(1)) + 5))


@pytest.mark.parametrize(
    ("lengths", "tokens", "most"), [([165], 150, None), ([100] * 3, 250, 200), ([30] * 10, 271, 270)]
)
def test_whole_texts_are_held_out_before_any_is_trained_on(lengths: list[int], tokens: int, most: int | None) -> None:
    """Counted together these are long enough; but no text is cut in two to be held out and trained on."""
    from sails_eval.methods.subspace.sae_training import check_length
    from sails_eval.methods.subspace.text_windows import Window

    text = [Window([1] * (length + 1)) for length in lengths]
    told = f"; give --tokens {most} or fewer, or longer" if most else "; give longer --texts$"
    with pytest.raises(UserError, match=told):
        check_length(text, small(tokens=tokens))
    if most:
        check_length(text, small(tokens=most))


def test_chunks_that_hold_more_leave_the_last_empty(testbed_base: Base, tmp_path: Path, monkeypatch: Any) -> None:
    from sails_eval.methods.subspace import sae_training
    from sails_eval.methods.subspace.text_windows import Window

    monkeypatch.setattr(sae_training, "CHUNK", 40)
    text = [Window([2, *range(5 + n, 55 + n)]) for n in range(3)]
    trained = sae_training.train_saes(
        testbed_base.model, lambda: iter(text), small(layers=(1,), tokens=90), folder=tmp_path, quiet=True
    )
    assert trained.keys() == {1}


def test_a_training_that_diverges_is_no_sae(testbed_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the SAE of layer 1 is lost: its loss is .*; lower --learning-rate"):
        train(testbed_pair, tmp_path, tokens=1500, layers=(1,), learning_rate=1e9)
    assert not (tmp_path / "layer_1").exists()


def test_activations_that_are_alike_or_not_finite_measure_nothing(
    testbed_base: Base, testbed_saes: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sails_eval.methods.subspace import activations as module
    from sails_eval.methods.subspace.sae_quality import quality
    from sails_eval.methods.subspace.text_windows import Window

    with pytest.raises(UserError, match="cannot be measured on 4 tokens"):
        quality(testbed_saes[1], torch.ones(4, testbed_base.model.config.hidden_size))
    real = module.residual_streams
    monkeypatch.setattr(
        module, "residual_streams", lambda *given: [(layer, stream * torch.nan) for layer, stream in real(*given)]
    )
    with pytest.raises(UserError, match="activations after layer 1 are not finite"):
        module.activations(testbed_base.model, [1], [Window([2, 5, 6])])


def test_what_a_model_cannot_read_at_once_is_told(testbed_pair: Pair, tmp_path: Path) -> None:
    from sails_eval.methods.subspace.sae_folder import usual_settings

    with pytest.raises(UserError, match=r"--context 257: model '.*' reads at most 256 tokens at once"):
        train(testbed_pair, tmp_path, context=257)
    assert usual_settings(testbed_pair) == {"layers": [0, 1, 2, 3], "context": 256}


def test_a_state_that_changed_is_not_taken_up(testbed_base: Base, tmp_path: Path) -> None:
    from sails_eval.methods.subspace.sae_training import Saes

    settings = small(layers=(1,), tokens=256)
    saes = Saes(testbed_base.model, settings)
    assert list(saes.train({1: torch.randn(256, testbed_base.model.config.hidden_size)}, seed=0))
    saes.save(tmp_path, done=1)
    assert Saes(testbed_base.model, settings).resume(tmp_path) == 1
    (state,) = tmp_path.glob("*/1/trainer_state.pt")
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with pytest.raises(UserError, match=r"changed or damaged since it was written; delete .* to train from the start"):
        Saes(testbed_base.model, settings).resume(tmp_path)


def test_what_others_left_in_a_folder_is_kept(testbed_pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files, but no training\.json"):
        train(testbed_pair, tmp_path, tokens=600, layers=(1,))
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_sae_that_was_deleted_is_trained_again(testbed_pair: Pair, tmp_path: Path) -> None:
    from sails_eval.core.files import remove

    first = train(testbed_pair, tmp_path, tokens=600, layers=(1,))
    remove(tmp_path / "layer_1")
    assert train(testbed_pair, tmp_path, tokens=600, layers=(1,)) == first
    assert (tmp_path / "layer_1" / "sae_weights.safetensors").is_file()


def test_a_disk_that_is_full_at_the_end_costs_no_training(
    testbed_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sails_eval.methods.subspace import sae_folder, sae_training

    def full(*given: Any) -> None:
        raise UserError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space"):
        patch.setattr(sae_folder, "write_text", full)
        train(testbed_pair, tmp_path, tokens=600, layers=(1,))
    monkeypatch.setattr(sae_training.Saes, "train", lambda *given, **named: pytest.fail("trained again"))
    assert train(testbed_pair, tmp_path, tokens=600, layers=(1,)).layers.keys() == {1}
    assert not (tmp_path / ".training").exists()


def test_the_lines_for_a_pair_are_yaml_wherever_the_folder_is(trained: Trained) -> None:
    import yaml

    from sails_eval.methods.subspace.sae_folder import saes_yaml

    folder = Path("/a, b: #c")
    told = yaml.safe_load("\n".join(saes_yaml(trained[1], folder)))
    assert [sae["path"] for sae in told["saes"]] == [str(folder / "layer_1"), str(folder / "layer_3")]


def test_a_folder_with_other_saes_is_kept(trained: Trained, testbed_pair: Pair) -> None:
    with pytest.raises(UserError, match=r"trained with another 'features' \(128, not 64\); give another --out"):
        train(testbed_pair, trained[0], features=64)


def test_a_poor_sae_is_refused_until_it_is_allowed(
    testbed_pair: Pair, testbed_base: Base, testbed_saes: dict[int, Any]
) -> None:
    from sails_eval.plan.checks import check_sae_quality

    check_sae_quality(testbed_pair, testbed_base.model, testbed_saes)
    elsewhere = {3: testbed_saes[0], 0: testbed_saes[0]}
    with pytest.raises(UserError, match=r"SAE of layer 3 explains only -?[0-9.]+ .*or --allow-poor-saes"):
        check_sae_quality(testbed_pair, testbed_base.model, elsewhere)


def test_the_help_tells_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    from sails_eval.cli import main
    from sails_eval.methods.subspace.sae_training import SaeSettings

    with pytest.raises(SystemExit):
        main("saes train --help".split())
    told = " ".join(capsys.readouterr().out.split())
    for name, field in SaeSettings.model_fields.items():
        flag = f"--{name.replace('_', '-')} "
        _, found, after = told.rpartition(f" {flag}")
        assert found
        if name not in ("layers", "context"):  # of which the model's are the defaults
            assert f"(default: {field.default})" in after.partition(" --")[0], name
