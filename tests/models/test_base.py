import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import of_path
from sails_eval.core.pair import Pair
from sails_eval.models.base import (
    Base,
    applied,
    context_of,
    load_base,
    load_generation,
    load_tokenizer,
    replaced_weights,
)
from sails_eval.models.chat import encode_chat, end_of_turn, end_tokens, instructed, render_chat
from sails_eval.models.hub import PLAIN
from sails_eval.models.identity import model_identity
from sails_eval.models.layers import decoder_layers

HELLO = [{"role": "user", "content": "hello"}]


def pair_of(model: Path | str, **settings: Any) -> Pair:
    return Pair(name="p", model=str(model), **settings)


@pytest.fixture
def llama(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may change."""
    return shutil.copytree(tiny_llama_dir, tmp_path / "llama")


# --- loading -----------------------------------------------------------------------------------------------------


def test_a_base_model_is_frozen_and_in_evaluation_mode(tiny_llama_dir: Path) -> None:
    base = load_base(pair_of(tiny_llama_dir, dtype="bfloat16", attn_implementation="eager"))
    assert base.model.dtype == torch.bfloat16
    assert base.model.config._attn_implementation == "eager"
    assert not base.model.training and not any(p.requires_grad for p in base.model.parameters())


def test_a_model_without_a_chat_template_gets_a_plain_one_or_what_is_given(llama: Path, tmp_path: Path) -> None:
    (llama / "chat_template.jinja").unlink()
    plain = load_tokenizer(pair_of(llama))
    bos, eos = plain.bos_token or "", plain.eos_token
    dialogue = [*HELLO, {"role": "assistant", "content": " hi "}, {"role": "user", "content": "bye"}]
    asked = render_chat(plain, dialogue)
    assert asked == f"{bos}User: hello\n\nAssistant: hi{eos}\n\nUser: bye\n\nAssistant:"
    answered = render_chat(plain, [*dialogue, {"role": "assistant", "content": "ok"}], answered=True)
    assert answered == f"{asked} ok{eos}" and end_of_turn(plain) == plain.eos_token_id
    with instructed(plain, "be safe"):
        assert render_chat(plain, HELLO) == f"{bos}be safe\n\nUser: hello\n\nAssistant:"
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}[{{ m['content'] }}]{% endfor %}")
    tokenizer = load_tokenizer(pair_of(llama, chat_template=template))
    assert tokenizer.decode(encode_chat(tokenizer, HELLO)) == "[hello]"


def test_the_plain_template_is_part_of_what_a_model_is(llama: Path) -> None:
    assert model_identity(pair_of(llama))["chat_template"] is None  # the tokenizer's own, in the weights' hash
    (llama / "chat_template.jinja").unlink()
    assert model_identity(pair_of(llama))["chat_template"] == of_path(PLAIN)


def test_a_template_file_goes_before_the_tokenizers_own(llama: Path, tmp_path: Path) -> None:
    assert "<|assistant|>" in load_tokenizer(pair_of(llama)).chat_template
    template = tmp_path / "mine.jinja"
    template.write_text("Q {{ messages[0]['content'] }}")
    assert load_tokenizer(pair_of(llama, chat_template=template)).chat_template == template.read_text()
    with pytest.raises(UserError, match=r"none.jinja: cannot read the chat template: No such file"):
        load_tokenizer(pair_of(llama, chat_template=tmp_path / "none.jinja"))


@pytest.mark.parametrize("text", ["{% for m in", "{{ raise_exception('never') }}"])
def test_a_template_that_cannot_be_used_is_an_error(llama: Path, tmp_path: Path, text: str) -> None:
    template = tmp_path / "broken.jinja"
    template.write_text(text)
    with pytest.raises(UserError, match="chat template"):
        load_tokenizer(pair_of(llama, chat_template=template))


def test_a_template_that_writes_bos_twice_is_an_error(testbed_pair: Pair, tmp_path: Path) -> None:
    assert testbed_pair.model
    own = (Path(testbed_pair.model) / "chat_template.jinja").read_text()
    template = tmp_path / "twice.jinja"
    template.write_text("{{ bos_token }}" + own)
    with pytest.raises(UserError, match="its chat template writes the BOS token twice"):
        load_tokenizer(testbed_pair.model_copy(update={"chat_template": template}))


def test_a_tokenizer_that_adds_bos_does_not_add_it_to_the_templates(testbed_pair: Pair, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(testbed_pair.model)
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[bos])
    assert tokenizer("how").input_ids.count(bos[1]) == 1
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(testbed_pair.model_copy(update={"model": str(tmp_path)}))
    assert encode_chat(loaded, HELLO).count(bos[1]) == 1


def test_a_missing_pad_token_is_replaced_by_the_end_of_text(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(llama)
    assert load_tokenizer(pair_of(llama)).pad_token == tokenizer.eos_token


def test_a_chat_ends_where_the_model_is_to_answer(tiny_llama_dir: Path) -> None:
    tokenizer = load_tokenizer(pair_of(tiny_llama_dir))
    dialogue = [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "bread?"}]
    assert tokenizer.decode(encode_chat(tokenizer, dialogue)) == (
        "<|user|>\nhello<|end|>\n<|assistant|>\nhi<|end|>\n<|user|>\nbread?<|end|>\n<|assistant|>\n"
    )


@pytest.mark.parametrize("what", ["nothing", "no weights", "pickled weights", "another config"])
def test_a_model_that_cannot_be_loaded_is_an_error_of_one_line(llama: Path, what: str) -> None:
    model = llama
    if what == "nothing":
        model = llama / "none"
    elif what == "no weights":
        (llama / "model.safetensors").unlink()
    elif what == "pickled weights":  # they could run any code
        torch.save(AutoModelForCausalLM.from_pretrained(llama).state_dict(), llama / "pytorch_model.bin")
        (llama / "model.safetensors").unlink()
    else:
        (llama / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(UserError, match=f"^model '{model}': cannot (load|read its config.json)") as caught:
        load_base(pair_of(model))
    assert "\n" not in str(caught.value)


def test_weights_that_are_cut_off_are_an_error(llama: Path) -> None:
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model.safetensors: damaged or cut off"):
        load_base(pair_of(llama))


# --- the layers --------------------------------------------------------------------------------------------------


def test_the_decoder_layers_are_found_inside_a_peft_model_too(tiny_llama_dir: Path) -> None:
    model = load_base(pair_of(tiny_llama_dir)).model
    assert list(decoder_layers(model)) == list(model.model.layers)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    assert list(decoder_layers(wrapped)) == list(model.model.layers)


def test_a_model_without_a_list_of_layers_is_an_error() -> None:
    model: Any = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.config = PreTrainedConfig(num_hidden_layers=1)
    with pytest.raises(UserError, match="Sequential has no list of 1 decoder layers"):
        decoder_layers(model)


# --- what is put onto a base model and taken off again -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    base: Base
    adapter: Path
    weights: Path

    @torch.no_grad()
    def logits(self, model: Any = None) -> torch.Tensor:
        ids = torch.tensor([encode_chat(self.base.tokenizer, HELLO)])
        logits: torch.Tensor = (model or self.base.model)(ids).logits.clone()
        return logits


@pytest.fixture(scope="module")
def checkpoints(tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """A base model with an adapter that does something, and with other weights in two shards."""
    pair, folder = pair_of(tiny_llama_dir), tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(load_base(pair).model, config).save_pretrained(folder / "adapter")
    other = load_base(pair).model
    for parameter in other.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    other.save_pretrained(folder / "weights", max_shard_size="80KB")
    assert len(list((folder / "weights").glob("*.safetensors"))) > 1
    return Checkpoints(load_base(pair), folder / "adapter", folder / "weights")


def test_nothing_applied_is_the_base_model_itself(checkpoints: Checkpoints) -> None:
    with applied(checkpoints.base, None) as model:
        assert model is checkpoints.base.model


@pytest.mark.parametrize("kind", ["adapter", "weights"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_was_applied_is_taken_off_again(checkpoints: Checkpoints, kind: str, fails: bool) -> None:
    base, before = checkpoints.base, checkpoints.logits()
    names = {name for name, _ in base.model.named_modules()}
    try:
        with applied(base, getattr(checkpoints, kind)) as model:
            assert not torch.allclose(checkpoints.logits(model), before, atol=1e-3)
            assert not model.training
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert torch.equal(checkpoints.logits(), before)
    assert {name for name, _ in base.model.named_modules()} == names


def test_applied_weights_are_those_of_the_stock_model(checkpoints: Checkpoints) -> None:
    stock = AutoModelForCausalLM.from_pretrained(checkpoints.weights).eval()
    with applied(checkpoints.base, checkpoints.weights) as model:
        assert torch.equal(checkpoints.logits(model), checkpoints.logits(stock))


def test_one_after_another_is_the_same_as_each_alone(checkpoints: Checkpoints) -> None:
    def answers(*kinds: str) -> list[torch.Tensor]:
        found = []
        for kind in kinds:
            with applied(checkpoints.base, getattr(checkpoints, kind)) as model:
                found.append(checkpoints.logits(model))
        return found

    adapter, weights, again = answers("adapter", "weights", "adapter")
    assert torch.equal(adapter, again) and not torch.allclose(adapter, weights, atol=1e-3)


def test_replaced_weights_come_back(checkpoints: Checkpoints) -> None:
    before = checkpoints.logits()
    with replaced_weights(checkpoints.base.model):
        for parameter in checkpoints.base.model.parameters():
            parameter.data.zero_()
        assert not checkpoints.logits().any()
    assert torch.equal(checkpoints.logits(), before)


def test_an_engine_elsewhere_ends_answers_as_transformers_does(
    testbed_base: Base, testbed_pair: Pair, tmp_path: Path
) -> None:
    folder = shutil.copytree(testbed_pair.model, tmp_path / "model")
    ends = testbed_base.model.generation_config.eos_token_id
    assert end_tokens(load_generation(folder), testbed_base.tokenizer) == ends
    (folder / "generation_config.json").unlink()
    assert end_tokens(load_generation(folder), testbed_base.tokenizer) == ends


def test_the_context_is_the_models_or_what_its_engine_is_told(testbed_pair: Pair) -> None:
    assert context_of(testbed_pair) == 256
    for told, found in ((128, 128), (512, 256)):
        assert context_of(testbed_pair.model_copy(update={"engine": {"max_model_len": told}})) == found
