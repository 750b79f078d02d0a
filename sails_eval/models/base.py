"""Loading base models, and putting trained adapters or weights onto them and taking them off again."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.pair import Pair
from sails_eval.models.adapters import mutates_base
from sails_eval.models.chat import encode_chat, end_tokens
from sails_eval.models.hub import PLAIN


@dataclass(frozen=True)
class Base:
    """A base model, ready to be trained or asked, with its tokenizer (which has a chat template and a pad token)."""

    model: Any
    tokenizer: Any


def dtype_of(pair: Pair) -> torch.dtype:
    """What the pair calls `dtype`, as torch has it."""
    found: torch.dtype = getattr(torch, pair.dtype)
    return found


def load_tokenizer(pair: Pair) -> Any:
    """The pair's tokenizer with its chat template, or a plain one where neither has any.

    Raises UserError where the tokenizer cannot be loaded or BOS would come twice.
    """
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
        tokenizer.chat_template = PLAIN.read_text(encoding="utf-8")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    ids = encode_chat(tokenizer, [{"role": "user", "content": "hello"}])
    if tokenizer.bos_token_id is not None and ids.count(tokenizer.bos_token_id) > 1:
        raise UserError(
            f"model '{pair.model}': its chat template writes the BOS token twice; remove one from the template"
        )
    return tokenizer


def load_base(pair: Pair) -> Base:
    """The pair's base model in evaluation mode, on the GPU if there is one."""
    tokenizer = load_tokenizer(pair)
    options = {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            pair.model, revision=pair.revision, dtype=dtype_of(pair), use_safetensors=True, **options
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
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


def load_generation(folder: Path) -> GenerationConfig:
    """The generation settings of a model that lies in `folder` and is not loaded here."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # then the model's own config has them
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))


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
        with replaced_weights(base.model) if mutates_base(config) else nullcontext():  # as pissa, olora and corda do
            try:
                wrapped = PeftModel.from_pretrained(base.model, str(checkpoint), config=config)
            except (RuntimeError, ValueError, KeyError) as error:
                raise UserError(
                    f"{checkpoint}: the adapter does not fit the base model; give the pair that it was trained on: "
                    f"{first_line(error)}"
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
                        raise UserError(
                            f"{shard}: the base model has no weight '{name}'; give the pair of this model as --pair"
                        )
                    parameters[name].data.copy_(value)
            yield base.model


@contextmanager
def replaced_weights(model: nn.Module) -> Iterator[None]:
    """Let the weights change inside the block, their dtype too, and put the old ones back after it."""
    kept = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    try:
        yield
    finally:
        for name, value in model.named_parameters():
            value.data = kept[name].to(value.device)
