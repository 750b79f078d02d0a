"""The one base model and the one engine that a process has loaded."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sails_eval.core.pair import Pair

if TYPE_CHECKING:
    from sails_eval.models.base import Base


class _Held:
    """One big thing at a time: what was there makes room before another is loaded."""

    def __init__(self) -> None:
        self._key: Any = None
        self._value: Any = None

    def holds(self, key: Any) -> bool:
        return bool(self._key == key)

    def drop(self) -> None:
        self._key = self._value = None

    def get(self, key: Any, load: Callable[[], Any]) -> Any:
        if not self.holds(key):
            self.drop()
            self._value = load()
            self._key = key
        return self._value


BASE_MODEL, ENGINE = _Held(), _Held()


def base_of(pair: Pair) -> "Base":
    from sails_eval.models.base import load_base

    if not BASE_MODEL.holds(pair):
        ENGINE.drop()  # it may hold the model that was here
    base: Base = BASE_MODEL.get(pair, lambda: load_base(pair))
    return base
