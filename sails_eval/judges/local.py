"""The judge `hf:MODEL`: a local causal LM, read from the probabilities of the first token of its reply."""

import inspect
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.paths import PACKAGE
from sails_eval.core.records import Completion, Verdict
from sails_eval.core.schema import Frozen, validate
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore
from sails_eval.judges.rubric import Rubric, load_rubrics
from sails_eval.models.engines import VLLM, resolve_engine, vllm_version
from sails_eval.models.hub import fetch
from sails_eval.models.stored import check_readable
from sails_eval.models.templates import CLOCK, reads_clock, settled

log = logging.getLogger(__name__)


def testbed_judge() -> "LocalJudge":
    """The judge that ships with the testbed: a small model that knows the testbed's language only."""
    weights = PACKAGE / "testbed" / "weights" / "judge"
    return LocalJudge(str(weights), name="testbed", rubrics=load_rubrics("testbed_"))


def special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """What a tokenizer, or the reader of its chat template, takes for structure: ends of turns, say."""
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    if tokenizer.chat_template:  # some mark turns by plain text, as in [INST]
        turn = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
        )
        tokens |= set(re.findall(r"<\S+?>|\[\S+?\]", turn))
        tokens |= set(re.findall(r"^#+ .*\S|\b[A-Z]\w*:", turn, re.MULTILINE))  # '### Response:', 'ASSISTANT:'
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")


def defused(text: str, special: re.Pattern[str]) -> str:
    """Text with its special tokens broken up: data must not pose as structure."""
    return special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def without_middle(text: str, kept: int) -> str:
    """The first and the last of a text that is too long, `kept` characters of it in all."""
    return f"{text[: (kept + 1) // 2]}\n[...]\n{text[len(text) - kept // 2 :]}"


class Options(Frozen):
    """What may follow `hf:MODEL?` besides `rubric`."""

    batch_size: int = Field(default=16, ge=1, description="prompts per forward pass of transformers")
    engine: Literal["auto", "hf", "vllm"] = Field(default="auto", description="what runs the model, as --engine")
    memory: float | None = Field(default=None, gt=0, le=1, description="vLLM's share of the GPU's memory")
    off_menu: float | None = Field(
        default=0.9, gt=0, le=1, description="the most of the probability that may be on other tokens than the options'"
    )


def hf_judge(model: str, *, rubrics: Mapping[JudgedKind, Rubric] | None = None, **options: str) -> "LocalJudge":
    """The judge `hf:MODEL?…`. Raises UserError for a faulty option, or an engine that is not installed."""
    chosen = validate(Options, options, where=f"judge 'hf:{model}'")
    return LocalJudge(model, rubrics=rubrics, options=chosen)


class LocalJudge(Judge):
    """Any causal LM, a folder or a hub id; it picks the rubric's option with the most probable first token.

    The prompt goes through the tokenizer's chat template or, where there is none, ends in 'Verdict:'. An answer that is
    too long for the model's context loses its middle. float32 on a CPU, else what the model's config says.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str | None = None,
        rubrics: Mapping[JudgedKind, Rubric] | None = None,
        options: Options | None = None,
    ) -> None:
        """Without options it is transformers that runs the model, and anything may be off the rubric's menu."""
        self.model_name = model
        self.name = name or f"hf:{Path(model).name if Path(model).is_dir() else model}"
        self._rubrics = rubrics or load_rubrics()
        self._options = options or Options(engine="hf", off_menu=None)
        self.hosted = resolve_engine(self._options.engine) == VLLM

    @cached_property
    def fingerprint(self) -> str:
        commit = f"{self.model_name}@{self.folder.name}"  # the hub's cache names the folder so
        model = of_path(self.folder) if Path(self.model_name).is_dir() else commit
        rubrics = {kind: rubric.model_dump() for kind, rubric in self._rubrics.items()}
        engine = {"engine": [VLLM, vllm_version()]} if self.hosted else {}  # its sums differ in the last digits
        files = [self.folder / name for name in ("chat_template.jinja", "tokenizer_config.json")]
        reads = any(reads_clock(file.read_text(errors="replace")) for file in files if file.is_file())
        clock = {"clock": str(CLOCK)} if reads else {}
        menu = {} if self._options.off_menu is None else {"off_menu": self._options.off_menu}
        return digest({"judge": "local 2", "model": model, "rubrics": rubrics, **engine, **clock, **menu})

    def check(self) -> None:
        """Fetch the model if it isn't here, and try its tokenizer on every rubric; no weights are loaded."""
        if not any(self.folder.glob("*.safetensors")):
            raise UserError(f"judge model '{self.model_name}' has no safetensors weights; convert it, or name another")
        check_readable(self.folder)
        with self._loading():
            _ = self._config, self.tokenizer
        for rubric in self._rubrics.values():
            self._reply_tokens(rubric)

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        """Batches are formed by length over the whole call: equal calls, equal verdicts, in any process."""
        rubric, found = self._rubrics[kind], {}
        for i, said in self._read(rubric, completions):
            if isinstance(said, str):
                found[i] = Verdict(completions[i].id, unscored=said)
            else:
                found[i] = rubric.verdict(completions[i].id, max(said, key=said.__getitem__))
            on_verdict(found[i])
        return [found[i] for i in range(len(completions))]

    def probabilities(self, kind: JudgedKind, completions: Sequence[Completion]) -> list[dict[str, float] | None]:
        """For every completion the probability of each of the rubric's options, which sum to 1; None if unscored."""
        said = dict(self._read(self._rubrics[kind], completions))
        return [None if isinstance(of_one := said[i], str) else of_one for i in range(len(completions))]

    def _read(self, rubric: Rubric, completions: Sequence[Completion]) -> Iterator[tuple[int, dict[str, float] | str]]:
        """The completions' positions with why there are no probabilities or, by length, those of the options."""
        lead, tokens = self._reply_tokens(rubric)
        fitted = [self._fitting(rubric, completion, len(lead)) for completion in completions]
        prompts = [ids + lead for ids, _ in fitted]
        if cut := sum(was_cut for _, was_cut in fitted):
            told = "%d of %d answers were longer than the context of judge %s; their middle was left out"
            log.warning(told, cut, len(completions), self.name)
        too_long = [i for i in range(len(prompts)) if len(prompts[i]) > self._context]
        yield from ((i, "request longer than the judge's context") for i in too_long)
        fit = sorted(set(range(len(prompts))) - set(too_long), key=lambda i: (len(prompts[i]), i))
        size = len(prompts) if self.hosted else self._options.batch_size  # vLLM makes batches of its own
        for start in range(0, len(fit), size):
            batch = fit[start : start + size]
            weigh = self._vllm.weigh if self.hosted else self._weigh
            rows = weigh([prompts[i] for i in batch], list(tokens.values()))
            for i, row in zip(batch, rows, strict=True):
                yield i, self._on_menu(dict(zip(tokens, row, strict=True)))

    def _on_menu(self, logs: Mapping[str, float]) -> dict[str, float] | str:
        """The options' probabilities among themselves, by their logarithms among all tokens; or why there are none."""
        if not all(map(math.isfinite, logs.values())):
            return "the judge's probabilities are not finite"
        most = max(logs.values())
        weights = {option: math.exp(log - most) for option, log in logs.items()}
        total = sum(weights.values())
        off = 1 - min(1.0, total * math.exp(most))
        if self._options.off_menu is not None and off > self._options.off_menu:
            return f"off the menu: {off:.2f} of the probability is not on the rubric's options"
        return {option: weight / total for option, weight in weights.items()}

    @cached_property
    def folder(self) -> Path:
        """Where the model lies, after fetching it if need be. Raises UserError where it can't be had."""
        what = f"judge model '{self.model_name}' is not a folder, and cannot be fetched from the hub"
        with as_user_error(what, "correct its name, or give a folder"):
            return fetch(self.model_name)

    def _loading(self) -> AbstractContextManager[None]:
        fix = "correct or fetch its config.json, tokenizer and weights again"
        return as_user_error(f"judge model '{self.model_name}' can't be loaded", fix)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        if tokenizer.chat_template:
            tokenizer.chat_template = settled(tokenizer)
        return tokenizer

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode, on the GPU if there is one."""
        import torch  # here and below: takes seconds, and naming a judge must not
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "auto" if device == "cuda" else torch.float32
        # With sdpa, Gemma-2 would silently lose its soft-capping.
        attention = {"attn_implementation": "eager"} if self._config.model_type == "gemma2" else {}
        load = AutoModelForCausalLM.from_pretrained
        options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
        with self._loading():
            return load(self.folder, **options, **attention).to(device).eval()

    @cached_property
    def _vllm(self) -> Any:
        from sails_eval.models.engines.vllm import Weigher

        return Weigher(self.folder, self._options.memory)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)

    @cached_property
    def _context(self) -> int:
        """The longest prompt in tokens. vLLM wants a place for the reply."""
        config = self._config.get_text_config()
        most = int(min(self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", 10**9)))
        return most - self.hosted

    @cached_property
    def _adds_bos(self) -> bool:
        return self.tokenizer.bos_token_id in self.tokenizer.encode("")

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return special_tokens(self.tokenizer)

    def _encode(self, prompt: str, reply: str = "") -> list[int]:
        """Token ids of a prompt and a beginning of the reply, with one BOS where the model expects any."""
        if self.tokenizer.chat_template:
            options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
            text = self.tokenizer.apply_chat_template([{"role": "user", "content": prompt}], **options) + reply
        else:
            text = f"{prompt}\nVerdict:" + (f" {reply}" if reply else "")
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self._adds_bos and ids[:1] != [bos] else ids

    def _reply_tokens(self, rubric: Rubric) -> tuple[list[int], dict[str, int]]:
        """The tokens with which every reply begins, if any, and the next one of each option.

        Raises UserError if two options begin with the same token.
        """
        prompt = rubric.render("request", "answer")
        bare = self._encode(prompt)
        whole = [self._encode(prompt, option) for option in rubric.options]
        replies = [ids[len(bare) :] if ids[: len(bare)] == bare else [] for ids in whole]
        lead = [tokens[0] for tokens in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*replies, strict=False))]
        firsts = [tuple(reply[len(lead) : len(lead) + 1]) for reply in replies]
        if len(set(firsts)) < len(firsts) or () in firsts:
            problem = f"two options of rubric '{rubric.name}' begin with the same token of its tokenizer"
            raise UserError(f"judge model '{self.model_name}': {problem}; rename options")
        return lead, {option: first[0] for option, first in zip(rubric.options, firsts, strict=True)}

    def _fitting(self, rubric: Rubric, completion: Completion, reserve: int) -> tuple[list[int], bool]:
        """The prompt's ids; the answer's middle is cut out until they fit with `reserve` more. Whether it was."""
        request, response = (defused(text, self._special) for text in (completion.prompt, completion.response))
        ids, kept = self._encode(rubric.render(request, response)), len(response)
        while len(ids) > self._context - reserve and kept > 0:
            kept = int(kept * min(0.9, self._context / len(ids)))
            ids = self._encode(rubric.render(request, without_middle(response, kept)))
        return ids, kept < len(response)

    def _weigh(self, prompts: list[list[int]], tokens: list[int]) -> list[list[float]]:
        """For every prompt, the logarithms of the probabilities of `tokens` as its continuation."""
        import torch

        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id or 0
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts]),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
            "logits_to_keep": torch.tensor([-1]),
        }
        known = inspect.signature(self.model.forward).parameters  # not every architecture takes all of these
        inputs = {name: value.to(self.model.device) for name, value in inputs.items() if name in known}
        with torch.inference_mode():
            logits = self.model(**inputs).logits[:, -1].double()
        rows: list[list[float]] = logits.log_softmax(-1)[:, tokens].tolist()
        return rows
