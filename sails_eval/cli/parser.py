"""Arguments as people type them: `--learning_rates` for `--learning-rates`, and lists with commas or spaces."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from sails_eval.cli.flags import listed, numbers
from sails_eval.core.names import names

NUMBER = re.compile(r"-\d+|-\d*\.?\d+(e[+-]?\d+)?", re.IGNORECASE)
"""What is a number and not a flag; argparse itself takes -1e-4 for one."""

LISTS = (names, numbers, listed)
"""Types of flags that take several values at once."""


class Parser(argparse.ArgumentParser):
    """A parser to which underscores in flags are hyphens, and spaces between a list's values commas.

    What it refuses is a line that names the flag meant, and no page of usage.
    """

    def __init__(self, **named: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **named})  # --seed would be --seeds
        self._negative_number_matcher = re.compile(f"({NUMBER.pattern})$", NUMBER.flags)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(None if args is None else self._as_declared(list(args)), namespace)
        if not self._has_commands() and (strange := next((word for word in rest if word.startswith("-")), None)):
            name = strange.partition("=")[0]
            near = get_close_matches(name, self._option_string_actions, n=1, cutoff=0.7)
            self.error(f"unknown flag {name}" + "".join(f"; did you mean {one}?" for one in near))
        return found, rest

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sails-eval: error: {message} (see: {self.prog} --help)\n")

    def _as_declared(self, given: Sequence[str]) -> list[str]:
        """The arguments with the words behind a list's flag joined, as far as they are not wanted as positionals."""
        made: list[list[str]] = []  # each flag with its words, and each word that belongs to none
        words, runs = 0, list[int]()
        rest = list(given)
        if self._has_commands():
            return rest  # the command's own parser sees to it
        while rest and rest[0] != "--":
            token = self._hyphenated(rest.pop(0))
            name, equals, value = token.partition("=")
            action = self._option_string_actions.get(token)
            if equals and (known := self._option_string_actions.get(name)) and known.type in LISTS:
                token, action = name, known  # `--methods=a b`
                rest.insert(0, value)
            if action is None:
                made.append([token])
                words += not token.startswith("-")
                continue
            several = action.type in LISTS or isinstance(action, argparse._AppendAction)
            n = len(rest) if several or action.nargs in ("+", "*") else 0 if action.nargs == 0 else 1
            if action.nargs == "?" and rest[:1] and action.choices is not None and rest[0] not in action.choices:
                n = 0
            taken = [token]
            while len(taken) <= n and rest and not rest[0].startswith("-"):
                taken.append(rest.pop(0))
            made.append(taken)
            runs += [len(made) - 1] if several else []
        missing = self._words_wanted() - words - len(rest[1:])
        for place in reversed(runs):  # whoever writes `--tasks a,b TARGET` means the last word as the target
            while missing > 0 and len(made[place]) > 2:
                made.insert(place + 1, [made[place].pop()])
                missing -= 1
        return [token for taken in made for token in self._joined(taken)] + rest

    def _has_commands(self) -> bool:
        return any(isinstance(action, argparse._SubParsersAction) for action in self._actions)

    def _words_wanted(self) -> int:
        """How many words the command wants that belong to no flag."""
        return sum(1 for action in self._actions if not action.option_strings and action.nargs is None)

    def _hyphenated(self, token: str) -> str:
        """A flag by the name that it is declared with, if it has one with hyphens."""
        name, equals, value = token.partition("=")
        declared = name.replace("_", "-")
        if not name.startswith("--") or name in self._option_string_actions:
            return token
        if not any(known.startswith(declared) for known in self._option_string_actions):
            return token
        return f"{declared}{equals}{value}"

    def _joined(self, taken: list[str]) -> list[str]:
        """A flag with several words as argparse takes it."""
        flag, *words = taken
        action = self._option_string_actions.get(flag)
        if action is not None and action.nargs == "?":
            return [f"{flag}={words[0] if words else action.const}"]
        if action is None or len(words) < 2 or action.nargs in ("+", "*"):
            return taken
        if isinstance(action, argparse._AppendAction):
            return [token for word in words for token in (flag, word)]
        return [flag, ",".join(words)]
