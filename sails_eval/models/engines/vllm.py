"""The engine `vllm`: one vLLM for a base model, with adapters as LoRA requests and other weights by reloading.

vLLM runs in this process, so that its scheduling, and with it every answer, is the same from run to run, and so that an
adapter that cannot be loaded is an error here instead of the end of an engine elsewhere.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # before vLLM is imported, as all of these
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import torch
from lm_eval.models.vllm_causallms import VLLM
from pydantic import ValidationError
from vllm import LLM, SamplingParams, TokensPrompt
from vllm.lora.layers import BaseLayerWithLoRA
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RepetitionDetectionParams
from vllm.v1.engine.exceptions import EngineDeadError

from sails_eval.core.errors import UserError, as_user_error, first_line
from sails_eval.core.loops import PERIODS, TIMES
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.models.adapters import adapter_config
from sails_eval.models.base import BOUNDLESS, NOT_IN_VLLM, context_of, ends_of, load_generation, load_tokenizer
from sails_eval.models.engines.base import SEED, Engine, Templated
from sails_eval.models.hub import fetch
from sails_eval.models.saved_adapter import CONFIG, check_rank, max_rank
from sails_eval.models.saved_weights import check_saved

REPETITION = "repetition_detected"
"""What vLLM says where it ended an answer that only repeats itself."""

MEMORY = ("KV cache", "kv cache", "cache blocks", "memory utilization", "out of memory")
"""What vLLM's and torch's errors about too little memory have in them."""


class GreedyVLLM(Templated, VLLM):  # type: ignore[misc]
    """lm-eval's class, whose answers end where those of its class for transformers do and are decoded as they are."""

    ends: list[int]
    penalty: float  # transformers takes it from the model's generation settings
    loops: RepetitionDetectionParams | None

    def modify_gen_kwargs(self, *args: Any, **kwargs: Any) -> Any:  # a static method there
        options, until, max_gen_toks = VLLM.modify_gen_kwargs(*args, **kwargs)
        options = {"repetition_penalty": self.penalty, **options, "stop_token_ids": self.ends}
        if options.get("temperature"):
            options.setdefault("seed", SEED)
        if self.loops:
            options["repetition_detection"] = self.loops
        return options, until, max_gen_toks

    def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
        outputs = super()._model_generate(requests, generate=generate, sampling_params=sampling_params)
        for answer in (output.outputs[0] for output in outputs) if generate else ():
            answer.text = self.tokenizer.decode(list(answer.token_ids), skip_special_tokens=True)
            if answer.stop_reason == REPETITION:
                self.note_looped([answer.text])
        return outputs


class VllmEngine(Engine):
    """A running vLLM. Starting takes about half a minute; settings of the pair's key `engine` go to `vllm.LLM`."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._folder = fetch(pair.model, pair.revision)
        self._max_rank = max_rank(pair)
        self._ids = count(1)  # never reused: vLLM would go on with the adapter that had the id
        self._lm = _start(pair, self._folder, self._max_rank)

    def check(self, recipes: Sequence[Recipe], saved_ranks: Mapping[str, int]) -> None:
        """Raises UserError where vLLM reads less than the pair's context, or cannot adapt its modules as recipes do."""
        if self._lm.max_length < context_of(self._pair) < BOUNDLESS:
            raise UserError(
                f"pair '{self._pair.name}': vLLM reads {self._lm.max_length} tokens of this model at most; set "
                f"'engine: {{max_model_len: {self._lm.max_length}}}' in the pair's YAML"
            )
        adapters = [recipe for recipe in recipes if recipe.parameters == "adapter"]
        if self._replicated:
            if len(adapters) < len(recipes):
                raise UserError(
                    "methods that train weights need an engine that can reload them: leave data_parallel_size out of "
                    f"key 'engine' of pair '{self._pair.name}', or give --engine hf"
                )
            return  # its engines start again for every task; what they can do is seen then
        if adapters:
            self._check_modules()
        for recipe in adapters:
            if recipe.peft_type != "lora":
                raise UserError(f"recipe '{recipe.name}': vLLM serves LoRA, not {recipe.peft_type}; give --engine hf")
            if (rank := saved_ranks[recipe.name]) > self._max_rank:
                raise UserError(
                    f"recipe '{recipe.name}': its adapters are of rank {rank}, and vLLM permits {self._max_rank} here; "
                    f"set 'engine: {{max_lora_rank: {rank}}}' in the pair's YAML, or give --engine hf"
                )
            with as_user_error(f"recipe '{recipe.name}': vLLM cannot load its adapters", "give --engine hf"):
                config = {**adapter_config(self._pair, recipe).to_dict(), "init_lora_weights": True}  # as it is saved
                lora = self._lm.model.llm_engine.vllm_config.lora_config
                PEFTHelper.from_dict(config).validate_legal(lora)

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[Any]:
        with _explaining(), ExitStack() as afterwards:
            if checkpoint is not None and (checkpoint / CONFIG).is_file():
                self._lm.lora_request = self._request(checkpoint)
                afterwards.callback(setattr, self._lm, "lora_request", None)
            elif checkpoint is not None:
                check_saved(checkpoint)
                self._reload(checkpoint)
                afterwards.callback(self._reload, self._folder)
            yield self._lm

    def _check_modules(self) -> None:
        known = self._lm.model.apply_model(_adaptable)[0]
        if missing := [one for one in self._pair.target_modules if one.rsplit(".", 1)[-1] not in known]:
            raise UserError(
                f"pair '{self._pair.name}': vLLM cannot adapt {', '.join(missing)} of this model (it can: "
                f"{', '.join(sorted(known))}); change key 'target_modules' or give --engine hf"
            )

    def _request(self, folder: Path) -> LoRARequest:
        """A request for an adapter, which is loaded already: what cannot be loaded must not be met while generating."""
        check_rank(folder, self._max_rank)
        check_saved(folder)
        number = next(self._ids)
        request = LoRARequest(f"adapter-{number}", number, str(folder.resolve()))
        if not self._replicated:
            with as_user_error(f"{folder}: vLLM cannot load this adapter", "give --engine hf"):
                self._lm.model.llm_engine.add_lora(request)
        return request

    def _reload(self, folder: Path) -> None:
        """Put a model's weights in place of those that are there."""
        llm = self._lm.model
        llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder.resolve())})
        if not llm.reset_prefix_cache():
            raise RuntimeError("vLLM's prefix cache is in use, so it would reuse values computed with other weights")

    @property
    def _replicated(self) -> bool:
        """Whether lm-eval's class runs replicas by ray, and has no engine here."""
        return bool(self._lm.data_parallel_size > 1)


class Weigher:
    """A vLLM that reads one token: what a local judge asks of its model. float32 on a CPU, else as the model has it."""

    def __init__(self, folder: Path, memory: float | None) -> None:
        """`memory` is the share of the GPU's memory. Raises UserError where vLLM cannot start."""
        share = {} if memory is None else {"gpu_memory_utilization": memory}
        dtype = "auto" if torch.cuda.is_available() else "float32"
        try:
            self._llm = LLM(model=str(folder), dtype=dtype, **_defaults(), **share)
        except Exception as error:  # vLLM's workers raise the bare class
            fix = "see the judge's option 'memory' (its share of the GPU's, from 0 to 1), or give it engine=hf"
            raise UserError(f"judge model '{folder.name}': vLLM cannot start: {_said(error)}; {fix}") from error

    def weigh(self, prompts: list[list[int]], tokens: list[int]) -> list[list[float]]:
        """For every prompt, the logarithms of the probabilities of `tokens` as its continuation."""
        asked = SamplingParams(temperature=0, max_tokens=1, logprob_token_ids=tokens, detokenize=False)
        outputs = self._llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], asked, use_tqdm=False)
        said = [output.outputs[0].logprobs[0] for output in outputs]
        return [[one[token].logprob for token in tokens] for one in said]


def _defaults() -> dict[str, Any]:
    """Settings of every vLLM here, which a pair's own precede; of a CPU's memory it would take nearly all."""
    cpu = {} if torch.cuda.is_available() else {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    return {"load_format": "safetensors", "use_tqdm_on_load": False, **cpu}


def _start(pair: Pair, folder: Path, rank: int) -> GreedyVLLM:
    """lm-eval's model class around a new vLLM. Raises UserError where that cannot start."""
    tokenizer, generation = load_tokenizer(pair), load_generation(folder)
    if unknown := [key for key in NOT_IN_VLLM if getattr(generation, key, None)]:
        raise UserError(
            f"pair '{pair.name}': the model's generation_config.json has {', '.join(unknown)}, which vLLM's greedy "
            "decoding does not know; give --engine hf"
        )
    settings = {**_defaults(), **pair.engine, "max_lora_rank": rank}
    try:
        lm = GreedyVLLM(
            pretrained=str(folder),
            dtype=pair.dtype,
            batch_size=10**6,  # vLLM makes batches of its own; lm-eval's 'auto' means the same with progress bars
            add_bos_token=False,  # as with transformers: special tokens are the template's alone
            enable_lora=True,
            **settings,
        )
    except Exception as error:  # vLLM's workers raise the bare class
        raise _explained(error, pair) from error
    lm.tokenizer, lm.hf_chat_template = tokenizer, None  # with the pair's template
    lm.ends, lm.penalty = ends_of(pair, generation, tokenizer), generation.repetition_penalty or 1.0
    shortest, longest = PERIODS
    lm.loops = RepetitionDetectionParams(longest, shortest, TIMES) if pair.end_loops else None
    return lm


@contextmanager
def _explaining() -> Iterator[None]:
    """Makes a UserError of what may befall a running vLLM."""
    try:
        yield
    except (EngineDeadError, torch.OutOfMemoryError) as error:
        raise UserError(
            f"vLLM failed while answering: {first_line(error)}; finished answers are kept: give the same command "
            "again, with less memory for vLLM if that is short (key 'engine' of the pair's YAML)"
        ) from error


def _said(error: Exception) -> str:
    """What vLLM's error says, in one line; of settings that it refuses, what it has against the first."""
    return str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else first_line(error)


def _explained(error: Exception, pair: Pair) -> UserError:
    """What vLLM's failure to start comes to."""
    said = f"pair '{pair.name}': vLLM cannot start: {_said(error)}"
    if any(word in str(error) for word in MEMORY):
        return UserError(
            f"{said}; too little memory for weights and KV cache: set max_model_len, gpu_memory_utilization or "
            "kv_cache_memory_bytes in key 'engine' of the pair's YAML"
        )
    return UserError(f"{said}; see key 'engine' of the pair's YAML, or give --engine hf")


def _adaptable(model: Any) -> set[str]:
    """The modules of a model that vLLM can adapt, as PEFT calls them. It runs where the model is."""
    packed = getattr(model, "packed_modules_mapping", {})
    leaves = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, BaseLayerWithLoRA)}
    return {name for leaf in leaves for name in packed.get(leaf, [leaf])}
