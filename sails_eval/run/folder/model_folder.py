"""The folder of one model in a run: its checkpoint, what training cost, answers and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sails_eval.core.errors import UserError
from sails_eval.core.files import move, remove
from sails_eval.core.records import Completion, Split, Verdict, read_completions, read_verdicts
from sails_eval.models.saved_adapter import CHECKPOINT
from sails_eval.run.folder import records
from sails_eval.run.folder.places import FolderPlace, Place, RecordPlace, below, ending, inside


@dataclass(frozen=True)
class ModelFolder:
    """What there is of one model: its checkpoint, what training cost, answers and verdicts.

    Of several checkpoints each has a folder of its own, `step-N`, which looks like a model's folder itself. What
    belongs to the step that is kept moves up, to where a cell that is judged at its end only has it.
    """

    path: Path

    checkpoint = Place(CHECKPOINT)  # an adapter as PEFT saves it, or a whole model
    partial = Place("checkpoint.partial")  # where training saves, until the checkpoint is whole
    retuned = Place(".retuned")  # weights that are deleted once they have answered; no method is called so
    record = RecordPlace("train.json", records.TrainRecord)  # written last: with it, the checkpoint is whole
    stopped = RecordPlace("stopped.json", records.Stopped)  # there once it is chosen which checkpoint is kept
    _completions = FolderPlace("completions")
    _verdicts = FolderPlace("verdicts")

    @property
    def trained(self) -> bool:
        """Whether training is done; the checkpoint may be deleted since."""
        return self.record.exists

    def drop_checkpoint(self) -> None:
        """Delete the weights; what was answered and measured with them stays."""
        remove(self.checkpoint)

    def answers_file(self, split: Split, task: str) -> Path:
        return ending(inside(self._completions, split, task), ".jsonl")

    def verdicts_file(self, split: Split, task: str, judge: str) -> Path:
        """`judge` is its fingerprint."""
        return ending(inside(self._verdicts, judge[:8], split, task), ".jsonl")

    def stage_files(self) -> Iterator[Path]:
        """The checkpoint's folder and every file that a stage wrote here, as far as they are there."""
        places = [self.checkpoint, self.record.path, self.stopped.path]
        yield from (path for path in places if path.exists())
        yield from below(self._completions, "*/*.jsonl")
        yield from below(self._verdicts, "*/*/*.jsonl")
        for number in self.steps():
            yield from self.step(number).stage_files()

    def answers(self, split: Split, task: str) -> list[Completion]:
        """Raises UserError where they are not there."""
        return read_completions(_there(self.answers_file(split, task)))

    def verdicts(self, split: Split, task: str, judge: str) -> list[Verdict]:
        """Raises UserError where they are not there."""
        return read_verdicts(_there(self.verdicts_file(split, task, judge)))

    def step(self, number: int) -> ModelFolder:
        return ModelFolder(inside(self.path, f"step-{number}"))

    def steps(self) -> list[int]:
        """After which steps there is a checkpoint, ascending."""
        return sorted(int(place.name.removeprefix("step-")) for place in self.path.glob("step-*"))

    def place_steps(self) -> None:
        """Move the checkpoints of a cell that was trained, which are called after their steps, to their places."""
        for checkpoint in sorted(self.partial.iterdir()):
            place = self.step(int(checkpoint.name))
            place.drop_checkpoint()
            place.path.mkdir(exist_ok=True)
            move(checkpoint, place.checkpoint)
            records.StepRecord(steps=int(checkpoint.name)).write(place.record.path)
        self.partial.rmdir()
        if self.stopped.exists:  # it was trained again, for a checkpoint that is gone
            self.take_up()

    def stop(self, scores: Mapping[int, float]) -> None:
        """Keep the step with the best score; of equal ones the first."""
        known = {step: score for step, score in sorted(scores.items()) if score == score}
        best = max(known, key=lambda step: (known[step], -step)) if known else min(scores)
        told = {step: known.get(step) for step in sorted(scores)}
        records.Stopped(step=best, alignment_score=told).write(self.stopped.path)

    def take_up(self) -> None:
        """Move what belongs to the step that is kept up, as far as it is not there yet."""
        kept = self.step(self.stopped().step)
        for old in (kept.checkpoint, kept._completions, kept._verdicts):
            if old.exists():
                move(old, self.path / old.name)

    def drop_other_steps(self) -> None:
        """Delete the checkpoints that were not kept; what they answered stays."""
        for number in self.steps():
            self.step(number).drop_checkpoint()

    def files(self, of: Literal["checkpoint", "steps", "record"]) -> list[Path]:
        """All files of the checkpoint, of steps, or of what says what was trained and kept, the record last."""
        if of == "record":
            return [file.path for file in (self.stopped, self.record) if file.exists]
        pattern = "checkpoint/**/*" if of == "checkpoint" else "step-*/**/*"
        return sorted(path for path in self.path.glob(pattern) if path.is_file())


def answers_of(verdicts: Path) -> Path:
    """The file of the answers that a file of verdicts is about."""
    _judge, _folder, model = verdicts.parents[1:4]
    return ModelFolder(model)._completions / verdicts.parent.name / verdicts.name


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: missing; give the run's command again to restore it")
    return path
