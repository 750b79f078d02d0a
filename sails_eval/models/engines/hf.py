"""The engine `hf`: the model in this process, by transformers and PEFT."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import LogitsProcessor, LogitsProcessorList

from sails_eval.core.device import device_memory, has_gpu
from sails_eval.core.loops import PERIODS, TIMES, ends_in_loop
from sails_eval.core.pair import Pair
from sails_eval.models.answer_batches import at_a_time, bytes_of_answer, bytes_of_choice
from sails_eval.models.base import Base, applied, context_of
from sails_eval.models.engines.base import Engine, Templated
from sails_eval.models.engines.shrinking import shrinking


class EndLoops(LogitsProcessor):  # type: ignore[misc]
    """Has an answer end that only repeats itself: its next token is the end token. `ended` are the rows of the batch.

    What is finished already ends with an end or a pad token, and stays as it is.
    """

    def __init__(self, start: int, ends: list[int]) -> None:
        """`start` is where answers begin; of the tokens that `ends` holds, the first is written."""
        self._start, self._ends = start, ends
        self.ended: set[int] = set()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        answers = input_ids[:, self._start :]
        looping = [row for row in _suspects(answers) if _loops(answers[row].tolist(), self._ends)]
        if not looping:
            return scores
        self.ended.update(looping)
        changed = scores.clone()
        changed[looping] = -torch.inf
        changed[looping, self._ends[0]] = 0.0
        return changed


def _suspects(answers: torch.Tensor) -> list[int]:
    """The rows [answers, tokens] whose last token stands at the end of every copy, for some period: few ever do."""
    back = answers.flip(1)
    possible = range(PERIODS[0], min(PERIODS[1], answers.shape[1] // TIMES) + 1)
    if not possible:
        return []
    periods = torch.tensor(possible, device=answers.device)
    same = [back[:, times * periods] == back[:, :1] for times in range(1, TIMES)]
    rows: list[int] = torch.stack(same).all(0).any(1).nonzero().flatten().tolist()
    return rows


def _loops(answer: list[int], ends: list[int]) -> bool:
    return answer[-1] not in ends and ends_in_loop(answer)


class QuietHFLM(Templated, HFLM):  # type: ignore[misc]
    """lm-eval's model class for transformers; for a `pair`, with batches that fit, and with loops ended."""

    pair: Pair | None = None

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        if self.pair is not None and self.pair.eval_batch_size is None:
            asked = ((one.args[0], one.args[1].get("max_gen_toks", self.max_gen_toks)) for one in requests)
            longest = max((len(self.tok_encode(prompt)) + int(more) for prompt, more in asked), default=0)
            self._fit(self.pair, bytes_of_answer(self.pair, self.model.config.get_text_config(), longest))
        return super().generate_until(requests)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        if self.pair is not None and self.pair.eval_batch_size is None:
            longest = max((len(self.tok_encode("".join(one.args))) for one in requests), default=0)
            self._fit(self.pair, bytes_of_choice(self.model.config.get_text_config(), longest))
        return super().loglikelihood(requests)

    def _fit(self, pair: Pair, each: int) -> None:
        """Have batches of a size that suits texts of which each takes so many bytes."""
        parameters, memory = self.model.num_parameters(), device_memory()
        self.batch_size_per_gpu = at_a_time(pair, each=each, parameters=parameters, memory=memory, gpu=has_gpu())

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **settings: Any) -> torch.Tensor:
        written: torch.Tensor
        if self.pair is None:
            written = super()._model_generate(context, max_length, stop, **settings)
            return written
        told, start = self.model.generation_config.eos_token_id, context.shape[1]
        told = told if isinstance(told, list) else [told]
        ends = [token for token in (*told, self.tokenizer.pad_token_id) if token is not None]
        loops = EndLoops(start, ends)
        if self.pair.end_loops:
            settings["logits_processor"] = LogitsProcessorList([loops])
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        with shrinking(model, ends) if self.pair.eval_batch_size is None else nullcontext():
            written = super()._model_generate(context, max_length, stop, **settings)
        self.note_looped(self.tok_decode(written[row, start:].tolist()) for row in sorted(loops.ended))
        return written


def wrap(model: Any, tokenizer: Any, pair: Pair) -> HFLM:
    """A loaded model (with an adapter or without) as lm-eval takes it."""
    lm = QuietHFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=pair.eval_batch_size or 1,
        max_length=context_of(pair),  # where the config states none, lm-eval would cut prompts at 2048
        add_bos_token=False,  # as in training: special tokens are the template's alone
    )
    lm.pair = pair
    return lm


class HfEngine(Engine):
    """A loaded base model; adapters are put onto it unmerged, other weights in place of its own."""

    def __init__(self, base: Base, pair: Pair) -> None:
        self._base = base
        self._pair = pair

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[HFLM]:
        with applied(self._base, checkpoint) as model:
            yield wrap(model, self._base.tokenizer, self._pair)
