"""What may leave this machine: prompts of gated sets to a remote judge, texts of sets that forbid redistribution."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from sails_eval.core.errors import UserError
from sails_eval.judges.spec import parse
from sails_eval.models.endpoint import url
from sails_eval.tasks.library import TaskInfo, find_tasks
from sails_eval.tasks.published import bound

PROMPT_ID = re.compile(r"(\w+)-[0-9a-f]{12}")
"""What `published.read_documents` calls a prompt."""


def receivers(judge: str) -> list[str]:
    """The hosts that a judge, or the members of one, send requests and answers to."""
    hosts = []
    for spec in parse(judge):
        if spec.kind == "openai":
            hosts.append(urlsplit(url()).hostname or url())
        if other := spec.options.get("other"):
            hosts += receivers(other)
    return [host for host in dict.fromkeys(hosts) if host not in ("localhost", "127.0.0.1", "::1")]


def check_sending(tasks: Iterable[TaskInfo], judge: str, send_to: Iterable[str]) -> None:
    """Raise UserError where a judge elsewhere would get a gated set's prompts and nobody said it may.

    So is a finished model behind an endpoint, which is named as a judge there is.
    """
    gated = [task.name for task in tasks if task.card is not None and bound(task.card)]
    for host in receivers(judge) if gated else ():
        if host not in set(send_to):
            raise UserError(
                f"'{judge}' sends prompts and answers to {host}, and the prompts of {', '.join(gated)} are gated; "
                f"if their terms allow it, add --send-to {host}; otherwise use one on this machine (for a judge: rules "
                "or hf:MODEL)"
            )


def named_in(ids: Iterable[str]) -> list[TaskInfo]:
    """The published tasks that answers are of, by the ids that their prompts have in a run's files."""
    prompt_sets = {task.name: task for task in find_tasks().values() if task.card is not None}
    asked = {found[1] for id_ in ids if (found := PROMPT_ID.fullmatch(id_))}
    return [prompt_sets[name] for name in sorted(asked & prompt_sets.keys())]


def check_redistribution(tasks: Iterable[TaskInfo]) -> None:
    """Raise UserError where texts of a task may not be published, by its card."""
    for task in tasks:
        if task.card is not None and not task.card.redistributable:
            raise UserError(
                f"task '{task.name}': its card forbids redistribution ({task.card.licence}); publish without "
                "--include-completions"
            )
