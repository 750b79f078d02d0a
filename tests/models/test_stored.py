"""Weights as their files hold them: damaged, missing, of another shape, untied, and under other names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MambaConfig, MixtralConfig

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.models.base import Base, applied, context_of, load_base, load_tokenizer, load_weights
from sails_eval.models.engines.hf import wrap

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
HEAD = "lm_head.weight"


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llama_dir, tmp_path / "model")


def pair_of(folder: Path) -> Pair:
    return Pair(name="p", model=str(folder), dtype="float32")


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **changed: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pointer": (lambda at: (at / "model.safetensors").write_bytes(POINTER), "a pointer of git-lfs.*git lfs pull"),
    "empty": (lambda at: (at / "model.safetensors").write_bytes(b""), "damaged or cut off"),
    "no head": (lambda at: rewrite(at, lambda weights: weights.pop(HEAD)), f"lack 1 weights .* such as '{HEAD}'"),
    "shape": (
        lambda at: configure(at, intermediate_size=72),
        r"does not fit the weights: .* is \(32, 64\) in its files",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("options", [{}, {"device_map": "meta"}], ids=["loaded", "meta"])
def test_files_without_the_models_weights_are_an_error(folder: Path, kind: str, options: dict[str, Any]) -> None:
    """The same whether weights are read or, as by `plan`, only the files' headers."""
    damage, told = DAMAGE[kind]
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        load_weights(pair_of(folder), **options)
    assert "\n" not in str(caught.value)


def test_a_head_apart_from_a_tied_embedding_answers_as_it_is_stored(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    stored = load_file(folder / "model.safetensors")[HEAD]
    base = load_base(pair_of(folder))
    wrap(base.model, base.tokenizer, pair_of(folder))  # lm-eval's class ties weights anew
    assert torch.equal(base.model.lm_head.weight.cpu(), stored)
    assert not base.model.config.tie_word_embeddings
    rewrite(folder, lambda weights: weights.pop(HEAD))
    tied = load_base(pair_of(folder)).model
    assert tied.lm_head.weight is tied.get_input_embeddings().weight and tied.config.tie_word_embeddings


def test_a_pointer_in_place_of_an_adapter_is_an_error(folder: Path, tmp_path: Path) -> None:
    base = load_base(pair_of(folder))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    get_peft_model(load_base(pair_of(folder)).model, config).save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(POINTER)
    with (
        pytest.raises(UserError, match=r"adapter_model.safetensors: a pointer of git-lfs"),
        applied(base, tmp_path / "adapter"),
    ):
        pass


def test_an_adapter_of_other_sizes_is_an_error_that_names_them(folder: Path, tmp_path: Path) -> None:
    model = load_base(pair_of(folder)).model
    model.resize_token_embeddings(model.config.vocab_size + 8)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "embed_tokens"], r=2)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with (
        pytest.raises(UserError, match=r"size mismatch for .*\[308"),
        applied(load_base(pair_of(folder)), tmp_path / "adapter"),
    ):
        pass


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {},
        lambda weights: dict(list(weights.items())[1:]),
        lambda weights: {name.replace("layers", "blocks"): weight for name, weight in weights.items()},
    ],
)
def test_an_adapter_that_lacks_weights_does_not_answer_as_the_base_model(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    get_peft_model(load_base(pair_of(folder)).model, config).save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    with (
        pytest.raises(UserError, match=r"adapter: the adapter does not fit the base model: .*missing adapter keys"),
        applied(load_base(pair_of(folder)), tmp_path / "adapter"),
    ):
        pass


def test_weights_that_files_name_otherwise_are_put_where_they_belong(folder: Path, tmp_path: Path) -> None:
    """Files of Mixtral have its experts one by one, the loaded model has them in one weight."""
    size = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=302, num_key_value_heads=2, num_local_experts=2, **size)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    base = Base(model, AutoTokenizer.from_pretrained(folder))
    other = AutoModelForCausalLM.from_config(config).eval()
    other.save_pretrained(tmp_path / "other")
    names = {name for name, _ in model.named_parameters()}
    assert load_file(tmp_path / "other" / "model.safetensors").keys() - names
    ids = torch.tensor([[3, 4, 5]])
    before = model(ids).logits
    with applied(base, tmp_path / "other") as put:
        assert torch.equal(put(ids).logits, other(ids).logits)
    assert torch.equal(model(ids).logits, before)


def test_part_of_a_model_is_none(folder: Path) -> None:
    base = load_base(pair_of(folder))
    rewrite(folder, lambda weights: weights.pop(HEAD))
    with pytest.raises(UserError, match=f"no weight '{HEAD}' there"), applied(base, folder):
        pass
    configure(folder, vocab_size=AutoConfig.from_pretrained(folder).vocab_size + 1)
    rewrite(folder, lambda weights: weights.update({HEAD: torch.zeros(1, 32)}))
    with pytest.raises(UserError, match=rf"'{HEAD}' is \(1, 32\), in the base model"), applied(base, folder):
        pass


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", None])
def test_a_tokenizer_that_is_not_there_is_an_error(folder: Path, file: str | None) -> None:
    if file is None:
        for one in ("tokenizer.json", "tokenizer_config.json"):
            (folder / one).unlink()
    else:
        (folder / file).write_bytes(POINTER)
    with pytest.raises(UserError, match=rf"{file}: a pointer of git-lfs" if file else "no tokenizer there; copy"):
        load_tokenizer(pair_of(folder))


def with_scales(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.mlp.up_proj.weight_scale_inv"] = torch.ones(1)


def nan_head(weights: dict[str, torch.Tensor]) -> None:
    weights[HEAD] = weights[HEAD] * float("nan")


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no such activation": (lambda at: configure(at, hidden_act="zzz"), "cannot load it: KeyError: 'zzz'"),
    "a text for a number": (lambda at: configure(at, hidden_size="32"), "hidden_size"),
    "no context": (lambda at: configure(at, max_position_embeddings=None), "max_position_embeddings"),
    "a list": (lambda at: (at / "config.json").write_text("[]"), "config.json: expected a JSON object, found list"),
    "no tokenizer": (
        lambda at: (at / "tokenizer.json").write_text("{"),
        "cannot load its tokenizer: .*correct its tokenizer.json",
    ),
    "no index": (
        lambda at: (at / "model.safetensors").rename(at / "model.safetensors.index.json").write_text("{}"),
        "index.json: key 'weight_map' has to map",
    ),
    "broken settings": (
        lambda at: (at / "generation_config.json").write_text("{"),
        "generation_config.json: not valid JSON",
    ),
    "an adapter": (lambda at: (at / "adapter_config.json").write_text("{}"), "an adapter, not a model"),
    "an encoder": (lambda at: configure(at, architectures=["BertForMaskedLM"]), "give a causal model"),
    "a reward model": (lambda at: configure(at, architectures=["LlamaForSequenceClassification"]), "writes no texts"),
    "quantised in an unknown way": (lambda at: configure(at, quantization_config={"quant_method": "zzz"}), "got zzz"),
    "quantised, but it does not say so": (lambda at: rewrite(at, with_scales), "hold quantised weights"),
    "not finite": (lambda at: rewrite(at, nan_head), f"weight {HEAD} has values that are not finite"),
    "an end below 0": (
        lambda at: (at / "generation_config.json").write_text('{"eos_token_id": -1}'),
        "key 'eos_token_id' .* is -1, which is no token",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_files_that_make_no_model_are_one_line_with_its_name(folder: Path, kind: str) -> None:
    damage, told = BROKEN[kind]
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        load_base(pair_of(folder))
    assert "\n" not in str(caught.value)


def test_of_a_models_generation_settings_known_ends_and_penalties_count(folder: Path) -> None:
    ends, others = '"eos_token_id": [2, 99999], "repetition_penalty": 1.5', '"num_beams": 4, "num_return_sequences": 2'
    never = '"max_new_tokens": 1, "max_time": 0.001, "return_dict_in_generate": true, "prompt_lookup_num_tokens": 3'
    (folder / "generation_config.json").write_text(f"{{{ends}, {others}, {never}}}")
    base = load_base(pair_of(folder))
    kept = base.model.generation_config
    assert 2 in kept.eos_token_id and 99999 not in kept.eos_token_id and kept.repetition_penalty == 1.5
    asked = [Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 5}), 0) for text in ("a", "b c")]
    kept.eos_token_id = None
    answers = wrap(base.model, base.tokenizer, pair_of(folder)).generate_until(asked)
    assert [len(base.tokenizer(answer)["input_ids"]) > 2 for answer in answers] == [True, True]


def test_a_prompt_is_cut_nowhere_where_the_config_states_no_context(folder: Path) -> None:
    base = load_base(pair_of(folder))
    base.tokenizer.model_max_length = 8
    base.model.config = MambaConfig()  # as BLOOM's, it has no key for it
    assert wrap(base.model, base.tokenizer, pair_of(folder)).max_length == context_of(pair_of(folder)) > 8


def test_weights_that_nothing_reads_are_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(folder, lambda weights: weights.update({"model.layers.9.mlp.up_proj.weight": torch.zeros(2)}))
    load_weights(pair_of(folder))
    assert "1 weights in its files are not read, such as 'model.layers.9.mlp.up_proj.weight'" in caplog.text


def test_architectures_that_are_no_names_do_not_matter(folder: Path) -> None:
    configure(folder, architectures=[-1])
    assert load_weights(pair_of(folder)).config.architectures
