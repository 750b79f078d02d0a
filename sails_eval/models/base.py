"""Loading base models, and putting trained adapters or weights onto them and taking them off again."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sails_eval.core.errors import UserError, foreign
from sails_eval.core.pair import Pair
from sails_eval.models.adapters import mutates_base
from sails_eval.models.chat import end_tokens, ending_of, render_chat
from sails_eval.models.hub import PLAIN
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.models.saved_weights import check_saved
from sails_eval.models.stored import TOKENIZER, check_readable, put_weights, stored_model
from sails_eval.models.templates import settled


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
    """The pair's tokenizer with its chat template, or a plain one where neither has any, and with EOS and pad tokens.

    Raises UserError where the tokenizer cannot be loaded, BOS would come twice, or nothing could end an answer.
    """
    folder = Path(pair.model)
    if folder.is_dir() and not any(any(folder.glob(kind)) for kind in ("*token*", "*.model", "vocab*")):
        raise UserError(f"model '{folder}': no tokenizer there; copy tokenizer.json and tokenizer_config.json into it")
    with foreign(f"model '{pair.model}': cannot load its tokenizer"):
        check_readable(folder, TOKENIZER)
        tokenizer = AutoTokenizer.from_pretrained(pair.model, revision=pair.revision, trust_remote_code=False)
        tokenizer("a")  # which needs more of its settings
    if pair.chat_template is not None:
        with foreign(f"{pair.chat_template}: cannot read the chat template"):
            tokenizer.chat_template = pair.chat_template.read_text(encoding="utf-8")
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN.read_text(encoding="utf-8")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise UserError(
            f"model '{pair.model}': its chat templates are {names}, none is the default; give --chat-template"
        )
    tokenizer.chat_template = settled(tokenizer)
    text, bos = render_chat(tokenizer, [{"role": "user", "content": "hello"}]), tokenizer.bos_token
    if bos and text.startswith(bos) and text.removeprefix(bos).lstrip().startswith(bos):
        raise UserError(  # elsewhere it may open turns
            f"model '{pair.model}': its chat template writes the BOS token twice; remove one from the template"
        )
    if tokenizer.eos_token is None:
        tokenizer.eos_token = _end(tokenizer, pair)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _end(tokenizer: Any, pair: Pair) -> str:
    """The token that ends an answer, of a tokenizer that names none. Raises UserError where nothing tells."""
    if token := ending_of(tokenizer).token:
        return token
    with suppress(OSError):  # there may be no such file
        ends = GenerationConfig.from_pretrained(pair.model, revision=pair.revision).eos_token_id
        if ends is not None:
            return str(tokenizer.convert_ids_to_tokens(ends[0] if isinstance(ends, list) else ends))
    raise UserError(
        f"model '{pair.model}': its tokenizer has no EOS token and its chat template ends answers with no special "
        "token, so no answer would end; set 'eos_token' in its tokenizer_config.json, or give --chat-template FILE"
    )


def load_base(pair: Pair) -> Base:
    """The pair's base model in evaluation mode, on the GPU if there is one."""
    tokenizer = load_tokenizer(pair)
    model = load_weights(pair)
    model.requires_grad_(False)
    model.generation_config.eos_token_id = end_tokens(model.generation_config, tokenizer)
    return Base(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)


def load_weights(pair: Pair, **options: Any) -> Any:
    """The pair's model as its files hold it; `device_map="meta"`: without reading the weights.

    Raises UserError where the files are damaged or do not hold all that the model has.
    """
    attention = {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
    return stored_model(
        AutoModelForCausalLM,
        pair.model,
        what=f"model '{pair.model}'",
        revision=pair.revision,
        dtype=dtype_of(pair),
        **attention,
        **options,
    )


BOUNDLESS = 10**9
"""The context, in tokens, of a model that states none."""


def context_of(pair: Pair) -> int:
    """The longest prompt and answer together, in tokens: what the model can do, or the pair says an engine is to do."""
    with foreign(f"model '{pair.model}': cannot read its config.json"):
        told = AutoConfig.from_pretrained(pair.model, revision=pair.revision, trust_remote_code=False)
        config = told.get_text_config()
    most = int(getattr(config, "max_position_embeddings", None) or BOUNDLESS)
    return min(most, int(pair.engine.get("max_model_len") or most))


def load_generation(folder: Path) -> GenerationConfig:
    """The generation settings of a model that lies in `folder` and is not loaded here."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # then the model's own config has them
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))


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

    The adapter stays unmerged. `checkpoint` None is the base model itself. Raises UserError as `check_saved` does.
    """
    if checkpoint is not None:
        check_readable(checkpoint)
        check_saved(checkpoint)
    if checkpoint is None:
        yield base.model
    elif (checkpoint / CONFIG).is_file():
        with foreign(f"{checkpoint / CONFIG}: cannot be read"):
            config = PeftConfig.from_pretrained(str(checkpoint))
        with replaced_weights(base.model) if mutates_base(config) else nullcontext():  # as pissa, olora and corda do
            wrapped = with_adapter(base.model, checkpoint, config)
            try:
                yield wrapped.eval()
            finally:
                wrapped.unload()
    else:
        with replaced_weights(base.model):
            put_weights(base.model, checkpoint)
            yield base.model


def with_adapter(model: nn.Module, folder: Path, config: PeftConfig | None = None) -> Any:
    """The model with a saved adapter. Raises UserError where that does not fit, or lacks weights, which would be those
    of a fresh adapter."""
    fix = "the adapter does not fit the model; give the pair that it was trained on, or save it again"
    with foreign(f"{folder}: {fix}"), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return PeftModel.from_pretrained(model, str(folder), config=config)


@contextmanager
def replaced_weights(model: nn.Module) -> Iterator[None]:
    """Let the weights change inside the block, their dtype too, and put the old ones back after it."""
    kept = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    try:
        yield
    finally:
        for name, value in model.named_parameters():
            value.data = kept[name].to(value.device)
