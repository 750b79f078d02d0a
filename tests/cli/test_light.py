"""What is loaded when: a name is checked before torch is imported, and something is on the screen before that."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "datasets", "lm_eval", "sae_lens", "sklearn", "matplotlib", "scipy", "pandas")

SCRIPT = """
import sys
from sails_eval.cli import main
for name in {blocked!r}:
    sys.modules[name] = None
status = main({arguments!r})
print(status, *({heavy!r} & sys.modules.keys()))
"""


def loaded(command: str, folder: Path, *, blocked: tuple[str, ...] = ()) -> tuple[str, str]:
    """What a command prints, last of all its status and what heavy modules it loaded; and its stderr."""
    script = SCRIPT.format(arguments=command.split(), heavy=set(HEAVY), blocked=blocked)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("compare --methods saisl", "unknown method 'saisl'"),
        ("compare --pair testbet", "unknown pair 'testbet'"),
        ("compare --judge rule", "unknown judge 'rule'"),
        ("compare --engine vlm", "unknown engine 'vlm'"),
        ("plan --methods saisl", "unknown method 'saisl'"),
        ("plan --pair testbet", "unknown pair 'testbet'"),
        ("train saisl --out new", "unknown method 'saisl'"),
        ("evaluate testbed --pair testbet", "unknown pair 'testbet'"),
        ("methods show saisl", "unknown method 'saisl'"),
        ("methods list --pair testbet", "unknown pair 'testbet'"),
        ("pairs check testbet", "unknown pair 'testbet'"),
    ],
)
def test_a_misspelt_name_costs_no_heavy_import(command: str, told: str, tmp_path: Path) -> None:
    out, error = loaded(command, tmp_path)
    assert told in error
    assert out == "2\n"


def test_the_opening_is_there_before_the_work_is_imported(tmp_path: Path) -> None:
    for command, module in (
        ("compare --methods lora", "sails_eval.run.compare"),
        ("train lora --out new", "sails_eval.run.evaluate"),
        ("plan --methods lora", "sails_eval.plan.keys"),
    ):
        _, error = loaded(command, tmp_path, blocked=(module,))
        first = " ".join(error.split())
        assert first.startswith(
            "lora on testbed (testbed is the embedded pair; for another model: --pair NAME or --model MODEL)"
        )


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sails_eval", "pairs", "list"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None and command.stderr is not None
        command.stdout.close()
        assert command.stderr.read() == ""
    assert command.returncode == 141


@pytest.mark.parametrize("command", ["tasks list", "pairs list", "models list", "runs list ."])
def test_lists_take_no_heavy_import(command: str, tmp_path: Path) -> None:
    out, _ = loaded(command, tmp_path)
    assert out.splitlines()[-1] == "0"
