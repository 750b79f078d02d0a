"""Whether transformers can make an optimiser and a schedule, without TRL, which takes long to import."""

import tempfile

import torch
from transformers import SchedulerType, Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from sails_eval.core.errors import UserError, first_line, unknown
from sails_eval.core.pair import Pair


def check_optimiser(pair: Pair) -> None:
    """Raises UserError where transformers cannot make the pair's optimiser or schedule here."""
    told = pair.optimiser.model_dump()
    for key, known in (("optim", OptimizerNames), ("lr_scheduler_type", SchedulerType)):
        names = [kind.value for kind in known]
        if (name := told[key]) not in names:
            raise unknown(f"{key} in 'optimiser' of pair '{pair.name}':", name, names)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            cpu = not torch.cuda.is_available()
            arguments = TrainingArguments(output_dir=scratch, use_cpu=cpu, max_steps=2, **told)
            trainer = Trainer(torch.nn.Linear(1, 1), arguments)
            trainer.create_optimizer_and_scheduler(num_training_steps=2)
        except (ImportError, ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise UserError(f"pair '{pair.name}': key 'optimiser': {first_line(error)}") from error
