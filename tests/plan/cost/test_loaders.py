"""A wrong value in a file of a model, tokenizer, adapter or SAE is one line with a fix, wherever it is met."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.methods.subspace.reference_weights import alignment
from sails_eval.methods.subspace.saes import load_sae
from sails_eval.models.base import Base, applied, load_base
from sails_eval.models.saved_adapter import read_adapter
from sails_eval.plan.cost.meta_model import shape_of
from sails_eval.plan.cost.model_checks import check_model, check_sae
from sails_eval.plan.references import reference
from tests.methods.subspace.test_saes import save_sae

DEEP = '{"a":' * 3000 + "1" + "}" * 3000


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama whose weights are those of the original."""
    return shutil.copytree(tiny_llama_dir, tmp_path / "model", copy_function=os.link)


def pair_of(folder: Path, **settings: Any) -> Pair:
    return Pair(name="p", model=str(folder), dtype="float32", rank=2, **settings)


def edit(file: Path, new: Any) -> None:
    """Put a text in place of a file, or keys into the object in it."""
    text = json.dumps(json.loads(file.read_text()) | new) if isinstance(new, dict) else new
    file.unlink(missing_ok=True)  # it may be a link
    file.write_text(text)


def planned(pair: Pair) -> None:
    """What `plan` looks at of a model without its weights."""
    check_model(shape_of(pair), pair, ()).check()


def refused(told: str, look: Callable[..., object], *given: Any) -> None:
    """One line, with something about what is wrong, and a fix behind it."""
    with pytest.raises(UserError, match=told) as caught:
        look(*given)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 1000 and "; " in line


CONFIG: list[tuple[Any, str]] = [
    ({"num_attention_heads": 0}, "config.json.*ZeroDivisionError"),
    ({"num_attention_heads": "four"}, "config.json.*num_attention_heads"),
    ({"hidden_size": -5}, "config.json.*hidden size"),
    ({"hidden_size": [1]}, "config.json.*hidden_size"),
    ({"hidden_act": "unheard_of"}, "cannot load it: KeyError: 'unheard_of'; correct its config.json"),
    ({"rope_parameters": "x"}, "config.json"),
    ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers is 1000000000"),
    ({"text_config": {}}, "config.json: text_config is not"),
    ({"max_position_embeddings": -1}, "config.json: max_position_embeddings is -1"),
    ("[]", "config.json: expected a JSON object, found list; correct"),
    ("", "config.json: not valid JSON"),
    (DEEP, r"config.json: .*nested too deeply"),
]
TOKENIZER: list[tuple[Any, str]] = [
    ("{}", "cannot load its tokenizer.*correct its tokenizer.json"),
    ("[]", "cannot load its tokenizer.*correct its tokenizer.json"),
]
SETTINGS: list[tuple[Any, str]] = [
    ("[]", "tokenizer_config.json: expected a JSON object, found list; correct"),
    ({"eos_token": 5}, "cannot load its tokenizer.*tokenizer_config.json"),
    ({"model_max_length": "x"}, "cannot load its tokenizer.*tokenizer_config.json"),
]
GENERATION: list[tuple[Any, str]] = [
    ("[]", "generation_config.json: expected a JSON object, found list; correct"),
    ({"eos_token_id": "x"}, "'eos_token_id' of its generation_config.json .* is 'x', which is no token"),
    ({"eos_token_id": 99999999}, "'eos_token_id' of its generation_config.json .* is 99999999, which is no token"),
]
INDEX: list[tuple[Any, str]] = [
    ('{"weight_map": []}', "model.safetensors.index.json: key 'weight_map' has to map"),
    ("[]", "model.safetensors.index.json: expected a JSON object"),
]
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": SETTINGS,
    "generation_config.json": GENERATION,
    "model.safetensors.index.json": INDEX,
}
EDITS = [(name, new, told) for name, edits in FILES.items() for new, told in edits]


@pytest.mark.parametrize(("name", "new", "told"), EDITS, ids=[f"{name}-{str(new)[:40]}" for name, new, _ in EDITS])
def test_a_wrong_value_in_a_models_file_is_found_with_and_without_its_weights(
    folder: Path, name: str, new: Any, told: str
) -> None:
    edit(folder / name, new)
    refused(told, load_base, pair_of(folder))
    with pytest.raises(UserError, match=told):
        planned(pair_of(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_weights_are_not_finite_is_refused(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][-1, -1] = value
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(r"weight model.embed_tokens.weight has values that are not finite", load_base, pair_of(folder))


def test_a_model_that_cannot_answer_with_its_own_settings_is_refused(folder: Path) -> None:
    edit(folder / "generation_config.json", {"repetition_penalty": "x"})
    refused("generation_config.json", load_base, pair_of(folder))


def test_an_attention_that_is_not_there_is_blamed_on_the_pairs_key(folder: Path) -> None:
    told, pair = r"cannot load it: .*nosuch.*; correct the pair's key 'attn_implementation'", pair_of(folder)
    pair = pair.model_copy(update={"attn_implementation": "nosuch"})
    refused(told, load_base, pair)
    with pytest.raises(UserError, match=told):
        planned(pair)


def test_a_chat_template_that_is_no_text_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_bytes(b"\xff")
    refused(
        "own.jinja: the chat template is not in UTF-8", load_base, pair_of(folder, chat_template=tmp_path / "own.jinja")
    )
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    refused("chat_template.jinja: the chat template is not in UTF-8", load_base, pair_of(folder))


def test_a_missing_shard_is_named(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder / "shards", max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    for file in (folder / "shards").glob("model*"):
        file.rename(folder / file.name)
    lost = sorted(folder.glob("*.safetensors"))[1]
    lost.unlink()
    for look in (load_base, planned):
        with pytest.raises(UserError, match=lost.name):
            look(pair_of(folder))


# --- adapters ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tiny_llama_dir: Path) -> Base:
    return load_base(pair_of(tiny_llama_dir))


@pytest.fixture
def adapter(base: Base, tmp_path: Path) -> Path:
    wrapped = get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2))
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.unload()
    return tmp_path / "adapter"


ADAPTER: list[Any] = [
    *({"peft_type": kind} for kind in ("UNHEARD_OF", None, 5)),
    *({"r": rank} for rank in ("x", 0, None)),
    *({"target_modules": modules} for modules in (5, "(", ["no_such_proj"], ["q_proj", "k_proj"])),
    {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    *({"eva_config": 5}, {"layer_replication": [[0, 9]]}, {"layer_replication": 5}),
    *("[]", "{}", DEEP),
]


@pytest.mark.parametrize("new", ADAPTER, ids=lambda new: str(new)[:40])
def test_a_wrong_value_in_an_adapters_file_is_one_line(base: Base, adapter: Path, new: Any) -> None:
    edit(adapter / "adapter_config.json", new)
    names = {name for name, _ in base.model.named_modules()}

    def answer() -> None:
        with applied(base, adapter):
            pass

    refused("adapter_config.json", answer)
    assert {name for name, _ in base.model.named_modules()} == names
    pair = pair_of(Path("none"), references={"aligned": str(adapter)}, target_modules=("q_proj",))
    refused("adapter_config.json|reference 'aligned'", lambda: list(alignment(base.model, pair, "aligned")))


def test_an_adapter_that_is_no_utf8_is_one_line(base: Base, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_bytes(b'{"peft_type": "LORA", "r": "\xff"}')
    refused("adapter_config.json: not valid JSON", read_adapter, adapter)


def test_only_an_engine_that_serves_nothing_but_lora_refuses_others(adapter: Path) -> None:
    edit(adapter / "adapter_config.json", {"peft_type": "LOHA"})
    assert reference(str(adapter), pair_of(Path("none")), "hf").checkpoint == adapter
    refused("type LOHA; vLLM serves LORA only; give --engine hf", reference, str(adapter), pair_of(adapter), "vllm")


# --- SAEs --------------------------------------------------------------------------------------------------------

SAE: list[tuple[Any, str]] = [
    ({"metadata": None}, "cfg.json: key 'metadata'"),
    ({"metadata": {"hook_name": 5}}, "cfg.json: key 'metadata.hook_name'"),
    ({"metadata": {"hook_name": f"blocks.{'9' * 5000}.hook_resid_post"}}, "is not the output of a layer"),
    ({"d_sae": None}, "cfg.json: key 'd_sae'"),
    ({"d_in": "x"}, "cfg.json: key 'd_in'"),
    ({"k": -1}, "cfg.json: key 'k'"),
    ({"normalize_activations": 5}, "cfg.json: key 'normalize_activations'"),
    ("[]", "cfg.json: expected a JSON object"),
    (DEEP, "cfg.json: .*nested too deeply"),
]


@pytest.mark.parametrize(("new", "told"), SAE, ids=[str(new)[:40] for new, _ in SAE])
def test_a_wrong_value_in_a_saes_file_is_one_line_before_it_is_loaded(
    tiny_llama_dir: Path, tmp_path: Path, new: Any, told: str
) -> None:
    pair, sae = pair_of(tiny_llama_dir), save_sae(tmp_path / "sae", "model.layers.0", width=32)
    shape, source = shape_of(pair), SaeSource(path=sae)
    check_sae(source, shape, pair)
    edit(sae / "cfg.json", new)
    with pytest.raises(UserError, match=told) as caught:
        check_sae(source, shape, pair)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


UNHEARD = {"architecture": "unheard_of"}, {"architecture": 5}, {"dtype": 5}, {"architecture": "topk", "k": 99}


@pytest.mark.parametrize("new", UNHEARD)
def test_what_only_saelens_can_tell_is_one_line(tmp_path: Path, new: Any) -> None:
    sae = save_sae(tmp_path / "sae", "model.layers.0")
    edit(sae / "cfg.json", new)
    refused("cannot load it: .*; correct its cfg.json", load_sae, SaeSource(path=sae))


@pytest.mark.parametrize(
    ("factor", "told"), [(float("nan"), "W_dec has values that are not"), (0.0, "decoder are zero")]
)
def test_a_sae_without_directions_is_refused_when_it_is_loaded(tmp_path: Path, factor: float, told: str) -> None:
    sae = save_sae(tmp_path / "sae", "model.layers.0")
    weights = load_file(sae / "sae_weights.safetensors")
    save_file(weights | {"W_dec": weights["W_dec"] * factor}, sae / "sae_weights.safetensors")
    refused(told, load_sae, SaeSource(path=sae))


# --- the one way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), Exception("a\nb"), AttributeError("'x'" * 999)])
def test_whatever_a_library_raises_is_one_line(error: Exception) -> None:
    with pytest.raises(UserError, match=r"^a file: .*; a fix$") as caught, as_user_error("a file", "a fix"):
        raise error
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "error", [UserError("told"), KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError("out of memory")]
)
def test_what_has_words_of_its_own_stays_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, as_user_error("a file", "a fix"):
        raise error
    assert caught.value is error
