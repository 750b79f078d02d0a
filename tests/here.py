"""Stands for the worker processes in tests and campaigns that run in one process."""

from collections.abc import Callable, Iterable
from typing import Any

from sails_eval.core.errors import CellFailed


class Here:
    """Does what workers do, one item after the other, as `sails_eval.run.workers.Workers` says."""

    def run(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)

    def rest(self) -> None:
        pass

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        title: str,
        done: Callable[[Any], object] = lambda item: None,
        failed: Callable[[Any, CellFailed], object] | None = None,
    ) -> None:
        for item in items:
            try:
                function(item)
            except CellFailed as error:
                if failed is None:
                    raise
                failed(item, error)
            else:
                done(item)
