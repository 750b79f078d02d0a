"""How a judge is written: `KIND[:MODEL][?key=value&key=value]`.

Several of these between commas are a panel, and a cascade where `cascade:` stands before the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from sails_eval.core.errors import UserError

CASCADE = "cascade"


@dataclass(frozen=True)
class Spec:
    """One judge as it was asked for: `hf:me/model?batch_size=4` has kind `hf`, a model and an option."""

    kind: str
    model: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        options = "&".join(f"{key}={value}" for key, value in self.options.items())
        return self.bare + (f"?{options}" if options else "")

    @property
    def bare(self) -> str:
        """Without the options."""
        return self.kind if self.model is None else f"{self.kind}:{self.model}"

    def having(self, **options: str) -> "Spec":
        """The same judge with these options, in place of its own of these names."""
        return replace(self, options={**self.options, **options})


def is_cascade(text: str) -> bool:
    """Whether a spec names a cascade: its judges are asked one after the other, until one has a verdict."""
    return text.strip().startswith(f"{CASCADE}:")


def parse(text: str) -> tuple[Spec, ...]:
    """The judges that a spec names, alone or as members. Raises UserError where it is not of the form."""
    members = text.strip().removeprefix(f"{CASCADE}:").split(",")
    if is_cascade(text) and len(members) == 1:
        raise UserError(f"judge '{text}': a cascade has two members or more, as in {CASCADE}:A,B")
    return tuple(_parse(part.strip()) for part in members)


def each(text: str, change: Callable[[Spec], Spec]) -> str:
    """The spec with each of its judges changed."""
    start = f"{CASCADE}:" if is_cascade(text) else ""
    return start + ",".join(str(change(judge)) for judge in parse(text))


def _parse(text: str) -> Spec:
    judge, _, query = text.partition("?")
    kind, colon, model = judge.partition(":")
    if kind == CASCADE:
        raise UserError(
            f"judge '{text}': a cascade is no member of a panel or of another cascade; write {CASCADE}:A,B, and "
            "nothing before it"
        )
    options: dict[str, str] = {}
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if not (key and equals) or key in options:
            problem = f"option '{key}' given twice" if equals and key in options else f"'{part}' is not KEY=VALUE"
            raise UserError(f"judge '{text}': {problem}, as in {kind}{colon}{model}?key=value&key=value")
        options[key] = value
    return Spec(kind, model if colon else None, options)


def trusting(text: str) -> str:
    """The same judges, those of the zoo allowed to run code from their models' repositories."""
    return each(text, lambda judge: judge.having(trust_remote_code="yes") if judge.kind == "zoo" else judge)
