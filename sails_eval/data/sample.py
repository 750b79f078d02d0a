"""The labelled examples that a seed's cells are trained on, as far as they can be contrasted, too."""

from dataclasses import dataclass

from sails_eval.core.errors import UserError
from sails_eval.data.dialogues import Example


@dataclass(frozen=True)
class TrainingSample:
    """Different examples in the order of the data; `tells` whether these say which requests are harmful (`group`)."""

    examples: tuple[Example, ...] = ()
    tells: bool = False

    @property
    def pairs(self) -> list[Example]:
        """Those with a rejected answer, too; of harmful requests only, where the data say which these are."""
        return [one for one in self.examples if one.rejected is not None and (one.harmful or not self.tells)]

    def requests(self, *, harmful: bool) -> list[Example]:
        """Those whose request is harmful, or the others."""
        return [one for one in self.examples if one.harmful is harmful]

    def check(self, which: str, *, method: str, where: str) -> None:
        """Raises UserError where there is nothing to contrast: pairs of answers (`responses`), or `requests` of either
        kind. `where` says whose examples these are."""
        if which == "responses" and not self.pairs:
            of = "harmful requests with rejected answers" if self.tells else "rejected answers"
            raise UserError(
                f"method '{method}' contrasts the answers of the examples that it trains on, and {where} has no {of}; "
                "give --contrast FILE and --contrast-examples N, or train on data with the fields chosen and rejected"
            )
        if which == "requests" and not all(self.requests(harmful=harmful) for harmful in (True, False)):
            raise UserError(
                f"method '{method}' contrasts the requests of the examples that it trains on, and {where} needs both "
                "harmful ones (group: harmful) and others; name a file of requests in the pair's YAML, 'requests: "
                "FILE', and give --contrast-examples N"
            )
