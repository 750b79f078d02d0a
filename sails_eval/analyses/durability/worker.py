"""What a worker does for an attack: change the model, have it answer, check the data."""

from collections.abc import Sequence

from sails_eval.analyses.durability.attacks import Attack, Attacked
from sails_eval.data.reading import read_examples
from sails_eval.models.loaded import base_of
from sails_eval.plan import checks
from sails_eval.plan.plan import SubRun
from sails_eval.run.stages import AnswerJob, write_completions


def answer(job: AnswerJob) -> None:
    """Attack a model and write its completions that are missing, in a worker process; its weights are gone then."""
    if not job.missing:
        return
    from sails_eval.analyses.durability.retuning import attacked
    from sails_eval.models.engines.hf import wrap

    assert isinstance(job.subject, Attacked)
    base = base_of(job.pair)
    with attacked(base, job.pair, job.subject) as model:
        write_completions(wrap(model, base.tokenizer, job.pair), job)


def check_data(job: tuple[SubRun, Sequence[Attack]]) -> list[str]:
    """Prompts that are asked and also fine-tuned on. Raises UserError where these are many, or examples too few."""
    from sails_eval.analyses.durability.retuning import rows_of

    plan, attacks = job
    for attack in attacks:
        if attack.retunes:
            rows_of(plan.pair, attack)
    kinds = {attack.kind: data for attack in attacks if (data := attack.data(plan.pair)) and attack.retunes}
    seen = {f"the data of attack {kind}": read_examples(data) for kind, data in kinds.items()}
    return checks.overlaps(plan, seen) if seen else []
