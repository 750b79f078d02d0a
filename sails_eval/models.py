"""Loading base models, and putting trained adapters or weights onto them and taking them off again."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sails_eval.config import Pair
from sails_eval.errors import UserError, first_line


@dataclass(frozen=True)
class Base:
    """A base model, ready to be trained or asked, with its tokenizer (which has a chat template and a pad token)."""

    model: Any
    tokenizer: Any


def load_tokenizer(pair: Pair) -> Any:
    """The pair's tokenizer with its chat template. Raises UserError where there is none or BOS would come twice."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(pair.model, revision=pair.revision)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model '{pair.model}': cannot load its tokenizer: {first_line(error)}") from error
    if pair.chat_template is not None:
        try:
            tokenizer.chat_template = pair.chat_template.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{pair.chat_template}: cannot read the chat template: {error.strerror}") from error
    if not tokenizer.chat_template:
        raise UserError(
            f"model '{pair.model}' has no chat template; give one with --chat-template FILE or in the pair's YAML"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = encode_chat(tokenizer, [{"role": "user", "content": "hello"}])
    if tokenizer.bos_token_id is not None and ids.count(tokenizer.bos_token_id) > 1:
        raise UserError(f"model '{pair.model}': its chat template writes the BOS token twice")
    return tokenizer


def load_base(pair: Pair) -> Base:
    """The pair's base model in evaluation mode, on the GPU if there is one."""
    tokenizer = load_tokenizer(pair)
    options = {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            pair.model,
            revision=pair.revision,
            dtype=getattr(torch, pair.dtype),
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model '{pair.model}': cannot load it: {first_line(error)}") from error
    model.requires_grad_(False)
    model.generation_config.eos_token_id = end_tokens(model.generation_config, tokenizer)
    return Base(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)


BOUNDLESS = 10**9
"""The context, in tokens, of a model that states none."""


def context_of(pair: Pair) -> int:
    """The longest prompt and answer together, in tokens: what the model can do, or the pair says an engine is to do."""
    config = AutoConfig.from_pretrained(pair.model, revision=pair.revision).get_text_config()
    most = int(getattr(config, "max_position_embeddings", None) or BOUNDLESS)
    return min(most, int(pair.engine.get("max_model_len") or most))


def render_chat(tokenizer: Any, messages: list[dict[str, str]], *, answered: bool = False) -> str:
    """A dialogue as the model sees it, up to where it answers (or, `answered`, to the end of its last turn).

    Raises UserError where the template has a fault or refuses the dialogue.
    """
    try:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=not answered, tokenize=False)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"the chat template cannot render a dialogue of {roles}: {first_line(error)}") from error
    return str(text)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an answer, if it does; training teaches it, so it has to
    stop generation even where the model's own settings know only another one."""
    asked = [{"role": "user", "content": "hello"}]
    prompt = render_chat(tokenizer, asked)
    whole = render_chat(tokenizer, [*asked, {"role": "assistant", "content": "hello"}], answered=True)
    ids = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    return next((token for token in ids if token in special), None)


def end_tokens(generation: GenerationConfig, tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the model's generation settings, its tokenizer and its template."""
    ends = generation.eos_token_id
    known = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return sorted(known - {None})


def load_generation(folder: Path) -> GenerationConfig:
    """The generation settings of a model that lies in `folder` and is not loaded here."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # then the model's own config has them
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))


def encode_chat(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a dialogue up to where the model answers; special tokens are the template's alone."""
    return list(tokenizer(render_chat(tokenizer, messages), add_special_tokens=False)["input_ids"])


@contextmanager
def instructed(tokenizer: Any, system_prompt: str) -> Iterator[None]:
    """Let the chat template open every dialogue with a system prompt ('' changes nothing).

    A template without a system role gets it in front of the first turn, which is the user's.
    """
    if not system_prompt:
        yield
        return
    template, said = tokenizer.chat_template, ascii(system_prompt)  # Jinja reads the escapes of Python
    if has_system_role(tokenizer):
        opened = f"[{{'role': 'system', 'content': {said}}}] + messages"
    else:
        opened = f"[{{'role': 'user', 'content': {said} + '\\n\\n' + messages[0]['content']}}] + messages[1:]"
    tokenizer.chat_template = f"{{% set messages = {opened} %}}{template}"
    try:
        yield
    finally:
        tokenizer.chat_template = template


def has_system_role(tokenizer: Any) -> bool:
    """Whether the chat template knows a system turn, and does not refuse it or write it as a user's."""
    asked = [{"role": "user", "content": "hello"}]
    texts = []
    for role in ("system", "user"):
        try:
            texts.append(render_chat(tokenizer, [{"role": role, "content": "instructions"}, *asked]))
        except UserError:  # some want speakers to alternate
            texts.append("")
    return "instructions" in texts[0] and texts[0] != texts[1]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers; the output of layer n is the residual stream after it."""
    n = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr, operator]
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n and re.search(r"(^|\.)(layers|h|blocks)$", name):
            return module
    raise UserError(f"{type(model).__name__} has no list of {n} decoder layers that SAEs could be hooked to")


@contextmanager
def applied(base: Base, checkpoint: Path | None) -> Iterator[Any]:
    """The base model with an adapter or with other weights; the bare base model again afterwards.

    The adapter stays unmerged. `checkpoint` None is the base model itself.
    """
    if checkpoint is None:
        yield base.model
    elif (checkpoint / "adapter_config.json").is_file():
        config = PeftConfig.from_pretrained(str(checkpoint))
        with kept_weights(base.model, config):
            try:
                wrapped = PeftModel.from_pretrained(base.model, str(checkpoint), config=config)
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(
                    f"{checkpoint}: the adapter does not fit the base model: {first_line(error)}"
                ) from error
            try:
                yield wrapped.eval()
            finally:
                wrapped.unload()
    else:
        with replaced_weights(base.model):
            parameters = dict(base.model.named_parameters())
            for shard in sorted(checkpoint.glob("*.safetensors")):
                for name, value in load_file(shard).items():
                    if name not in parameters:
                        raise UserError(f"{shard}: the base model has no weight '{name}'")
                    parameters[name].data.copy_(value)
            yield base.model


def kept_weights(model: nn.Module, config: PeftConfig) -> AbstractContextManager[None]:
    """Puts the base weights back after an adapter whose initialisation changes them (pissa, olora, corda, …)."""
    return replaced_weights(model) if changes_base(config) else nullcontext()


def changes_base(config: PeftConfig) -> bool:
    """Whether an adapter's initialisation changes the base weights, so that it is the base model only with them."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start != "gaussian"


@contextmanager
def replaced_weights(model: nn.Module) -> Iterator[None]:
    """Let the weights change inside the block, their dtype too, and put the old ones back after it."""
    kept = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    try:
        yield
    finally:
        for name, value in model.named_parameters():
            value.data = kept[name].to(value.device)


def quiet_libraries() -> None:
    """Turn off the progress bars, notes and deprecation warnings that the libraries print for every cell."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("lm_eval", "peft", "trl", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
