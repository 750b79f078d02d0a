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
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedConfig
from transformers.quantizers import AutoQuantizationConfig

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.pair import Pair
from sails_eval.models.adapters import mutates_base
from sails_eval.models.chat import check_template, encode_chat, end_tokens, ending_of
from sails_eval.models.hub import PLAIN
from sails_eval.models.layers import with_architecture
from sails_eval.models.saved_adapter import CONFIG, read_adapter
from sails_eval.models.saved_weights import check_saved, finite
from sails_eval.models.stored import TOKENIZER, check_readable, put_weights, read_template, stored_model
from sails_eval.models.templates import settled

HELLO = [{"role": "user", "content": "hello"}]


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

    Raises UserError where the tokenizer cannot be loaded, as `check_template` does, or nothing could end an answer.
    """
    folder = Path(pair.model)
    if folder.is_dir() and not any(any(folder.glob(kind)) for kind in ("*token*", "*.model", "vocab*")):
        raise UserError(f"model '{folder}': no tokenizer there; copy tokenizer.json and tokenizer_config.json into it")
    check_readable(folder, TOKENIZER)
    if (folder / "config.json").is_file():  # it is read with the tokenizer, which would be blamed for what is wrong
        config_of(pair)
    fix = "correct its tokenizer.json or tokenizer_config.json, or fetch them again"
    with as_user_error(f"model '{pair.model}': cannot load its tokenizer", fix):
        tokenizer = AutoTokenizer.from_pretrained(pair.model, revision=pair.revision, trust_remote_code=False)
        _complete(tokenizer, pair)
    return tokenizer


def _complete(tokenizer: Any, pair: Pair) -> None:
    """Give a tokenizer the chat template, EOS and pad tokens that it lacks. Raises UserError as `load_tokenizer`."""
    if pair.chat_template is not None:
        tokenizer.chat_template = read_template(pair.chat_template)
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN.read_text(encoding="utf-8")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise UserError(
            f"model '{pair.model}': its chat templates are {names}, none is the default; give --chat-template"
        )
    with as_user_error(f"model '{pair.model}': cannot use its chat template", "give another: --chat-template FILE"):
        tokenizer.chat_template = settled(tokenizer)
    try:
        check_template(tokenizer)
    except UserError as error:
        raise UserError(f"model '{pair.model}': {error}") from error
    if tokenizer.eos_token is None:
        tokenizer.eos_token = _end(tokenizer, pair)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    encode_chat(tokenizer, HELLO)  # with settings that are looked at only now


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
    ends, told = ends_of(pair, model.generation_config, tokenizer), model.generation_config.to_dict()
    model.generation_config = GenerationConfig(eos_token_id=ends, **{key: told[key] for key in DECODING if key in told})
    base = Base(model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer)
    _check_answering(base, pair)
    return base


NOT_IN_VLLM = ("no_repeat_ngram_size", "bad_words_ids", "suppress_tokens", "min_new_tokens")
"""Settings of transformers' greedy decoding that vLLM does not know."""

DECODING = (
    *("bos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *NOT_IN_VLLM,
)
"""What is taken from a model's generation settings besides the end tokens: how many tokens, answers and beams there
are, and for how long, is for tasks to say."""

SMALL = 10**8
"""Parameters of a model up to which each of its weights is looked at."""


FEW_TOKENS = 16
"""The end of a prompt that a model is tried on."""


def _check_answering(base: Base, pair: Pair) -> None:
    """Raises UserError where a model has values that are not finite, or cannot answer with its own settings."""
    model, again = base.model, "copy or fetch its weights again"
    if model.num_parameters() <= SMALL:
        for name, weight in model.named_parameters():
            if not finite(weight):
                raise UserError(f"model '{pair.model}': weight {name} has values that are not finite; {again}")
    rows = model.get_input_embeddings().weight.shape[0]  # that there are tokens beyond these is told elsewhere
    last = [token for token in encode_chat(base.tokenizer, HELLO) if token < rows][-FEW_TOKENS:] or [0]
    ids = torch.tensor([last], device=model.device)
    told = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    fix = "correct its config.json or generation_config.json"
    with as_user_error(f"model '{pair.model}': cannot answer", fix):
        said = model.generate(ids, attention_mask=torch.ones_like(ids), **told)
    if said.logits[0].isnan().any():
        raise UserError(f"model '{pair.model}': its answers have values that are not numbers; {again}")


def ends_of(pair: Pair, generation: GenerationConfig, tokenizer: Any) -> list[int]:
    """The tokens that end an answer, as `end_tokens`. Raises UserError where the model's settings name no tokens."""
    told, known = generation.eos_token_id, {*tokenizer.get_vocab().values()}
    ends = told if isinstance(told, list) else [told]
    numbers = all(isinstance(end, int) and end >= 0 for end in ends)
    if ends != [None] and not (numbers and known.intersection(ends)):
        raise UserError(
            f"model '{pair.model}': key 'eos_token_id' of its generation_config.json (without one, of its config.json) "
            f"is {told!r:.40}, which is no token of its tokenizer; correct it"
        )
    return end_tokens(generation, tokenizer)


def load_weights(pair: Pair, **options: Any) -> Any:
    """The pair's model as its files hold it; `device_map="meta"`: without reading the weights.

    Raises UserError where the files are damaged or do not hold all that the model has.
    """
    if found := _WRITES_NOTHING.search(str(config_of(pair).architectures)):
        raise UserError(f"model '{pair.model}': a {found[0]}, which writes no texts; give a causal model")
    attention = {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
    model = stored_model(
        AutoModelForCausalLM,
        pair.model,
        what=f"model '{pair.model}'",
        revision=pair.revision,
        dtype=dtype_of(pair),
        **attention,
        **options,
    )
    return with_architecture(model, pair)


_WRITES_NOTHING = re.compile(r"\w*(?:MaskedLM|Classification|QuestionAnswering|MultipleChoice|Reward)\w*")
"""In the names of classes: these have other heads, and are loaded all the same where head and embedding are tied."""

BOUNDLESS = 10**9
"""The context, in tokens, of a model that states none."""

MOST_LAYERS = 10_000
"""Beyond all models; each layer takes time and memory even where no weight is read."""


def config_of(pair: Pair, *, fix: str = "correct it, or fetch it again", **options: Any) -> Any:
    """The config of the pair's model. Raises UserError where it is missing, or makes no model."""
    with as_user_error(f"model '{pair.model}': cannot read its config.json", fix):
        config = AutoConfig.from_pretrained(pair.model, revision=pair.revision, trust_remote_code=False, **options)
        if quantised := getattr(config, "quantization_config", None):
            AutoQuantizationConfig.from_dict(dict(quantised))  # lm-eval reads it, too
        text = config.get_text_config()
        if not isinstance(text, PreTrainedConfig):
            raise ValueError("text_config is not the config of a model")
        for key, most in (("num_hidden_layers", MOST_LAYERS), ("max_position_embeddings", BOUNDLESS)):
            if not 0 <= (found := getattr(text, key, None) or 0) <= most:
                raise ValueError(f"{key} is {found}, not from 0 to {most}")
        return config


def context_of(pair: Pair) -> int:
    """The longest prompt and answer together, in tokens: what the model can do, or the pair says an engine is to do."""
    config = config_of(pair).get_text_config()
    most = int(getattr(config, "max_position_embeddings", None) or BOUNDLESS)
    return min(most, int(pair.engine.get("max_model_len") or most))


def load_generation(folder: Path) -> GenerationConfig:
    """The generation settings of a model that lies in `folder` and is not loaded here."""
    with as_user_error(f"{folder}: cannot read its generation_config.json", "correct it, or fetch it again"):
        try:
            return GenerationConfig.from_pretrained(folder)
        except OSError:  # then the model's own config has them
            return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))


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
        read_adapter(checkpoint)
        with as_user_error(f"{checkpoint / CONFIG}: no configuration of an adapter", "correct it, or save it again"):
            config = PeftConfig.from_pretrained(str(checkpoint))
        with replaced_weights(base.model) if mutates_base(config) else nullcontext():  # as pissa, olora and corda do
            wrapped = load_adapter(base.model, checkpoint, config=config)
            try:
                yield wrapped.eval()
            finally:
                wrapped.unload()
    else:
        with replaced_weights(base.model):
            put_weights(base.model, checkpoint)
            yield base.model


def load_adapter(model: Any, folder: Path, **options: Any) -> PeftModel:
    """An adapter on a model, as PEFT loads it. Raises UserError where it does not fit, or not all of it is there."""
    fix = f"give the pair that it was trained on, or correct {CONFIG}"
    try:
        with as_user_error(f"{folder}: the adapter does not fit the base model", fix), warnings.catch_warnings():
            warnings.filterwarnings("error", "Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder), **options)
    except UserError:
        _take_off(model)
        raise


def _take_off(model: Any) -> None:
    """Take off a model what PEFT put onto it before it failed: others are to be put onto it after this one."""
    for name, module in list(model.named_modules()):
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            parent, _, child = name.rpartition(".")
            tuned = isinstance(module, BaseTunerLayer)
            setattr(model.get_submodule(parent), child, module.get_base_layer() if tuned else module.original_module)
    vars(model).pop("peft_config", None)


@contextmanager
def replaced_weights(model: nn.Module) -> Iterator[None]:
    """Let the weights change inside the block, their dtype too, and put the old ones back after it."""
    kept = {name: value.detach().cpu().clone() for name, value in model.named_parameters()}
    try:
        yield
    finally:
        for name, value in model.named_parameters():
            value.data = kept[name].to(value.device)
