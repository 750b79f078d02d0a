"""How a judge is written: `KIND[:MODEL][?key=value&key=value]`, or several of these between commas, a panel."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sails_eval.core.errors import UserError


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


def parse(text: str) -> tuple[Spec, ...]:
    """The judges that a spec names. Raises UserError where it is not of the form."""
    return tuple(_parse(part.strip()) for part in text.split(","))


def _parse(text: str) -> Spec:
    judge, _, query = text.partition("?")
    kind, colon, model = judge.partition(":")
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
    judges = (judge.having(trust_remote_code="yes") if judge.kind == "zoo" else judge for judge in parse(text))
    return ",".join(map(str, judges))
