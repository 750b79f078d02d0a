"""The Python API: compare methods, evaluate one model, or open an earlier run. Each function returns a `Run`.

The public names are those of `sails_eval` itself; "sails-eval docs api" has examples.
"""

from pathlib import Path
from typing import Unpack

from sails_eval.api.run import Run
from sails_eval.api.settings import ComparisonSettings, EvaluationSettings, with_keys
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.schema import validate
from sails_eval.run.folder.run_folder import RunFolder


@with_keys
def compare(*, quiet: bool = False, **settings: Unpack[ComparisonSettings]) -> Run:
    """Train methods at the same budget, judge their answers and write a leaderboard, as `sails-eval compare` does.

    Settings have the names of that command's flags, and the command's --help describes them; without any, sails, lora
    and full are compared on the embedded testbed. A run with the same settings is resumed. `quiet` turns off progress
    bars. The work is done in `jobs` worker processes with one thread each, so a script must call this function under
    `if __name__ == "__main__":`; a notebook need not.

    Raises UserError if a setting is wrong, or a file or model is missing, before anything is trained.
    """
    from sails_eval.run.compare import compare as run_comparison

    config = validate(CompareConfig, dict(settings), where="compare")
    return Run(run_comparison(config, quiet=quiet))


@with_keys
def evaluate(
    target: str | Path, *, name: str | None = None, quiet: bool = False, **settings: Unpack[EvaluationSettings]
) -> Run:
    """Generate the answers of an adapter or a model to the tasks, and judge them, as `sails-eval evaluate` does.

    `target` is the folder of a PEFT adapter, which is applied to the pair's base model, or the folder or hub id of a
    model, which replaces it; `name` is the name of its row (default: the folder's name). The rest is as in `compare`.

    Raises UserError if a setting is wrong, or a file or model is missing, before any answer is generated.
    """
    from sails_eval.run.evaluate import evaluate as run_evaluation

    if strange := settings.keys() - EvaluationSettings.__annotations__.keys():
        raise UserError(f"evaluate: {unknown('key', min(strange), EvaluationSettings.__annotations__)}")
    config = validate(CompareConfig, dict(settings), where="evaluate")
    return Run(run_evaluation(config, str(target), name=name, quiet=quiet))


def load_run(path: str | Path) -> Run:
    """Open a finished run of `compare` or `evaluate`, by its folder.

    Raises UserError if the folder is not a run folder, or the run is not finished.
    """
    folder = RunFolder(Path(path).expanduser())
    folder.description()
    if not folder.leaderboard.is_file():
        raise UserError(f"{folder.path}: the run is not finished; give its command again to resume it")
    return Run(folder.path)
