"""The command line: cheap help, a clear line for every problem, and the commands that need no model."""

import os
import subprocess
import sys
from itertools import dropwhile
from pathlib import Path

import pytest

from sails_eval.cli import main, parser
from sails_eval.cli.common import read_config


@pytest.fixture
def bad_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one of every kind of faulty file, as the working directory."""
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt": "a"\n')
    (tmp_path / "lacking.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "good.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    (tmp_path / "config.yaml").write_text("pair: testbed\nsedes: 3\n")
    (tmp_path / "wide.yaml").write_text("description: x\nparameters: all\nlearning_rate: {low: 1.0e-6, high: 1.0}\n")
    (tmp_path / "rank.yaml").write_text(
        "description: x\nparameters: adapter\npeft: {r: 64}\nlearning_rate: {low: 2.0e-5, high: 2.0e-3}\n"
    )
    (tmp_path / "typo.yaml").write_text(
        "description: x\nparamters: all\nparameters: all\nlearning_rate: {low: 1.0e-6, high: 1.0e-4}\n"
    )
    (tmp_path / "evil.yaml").write_text(
        "name: ../../../EVIL\ndescription: x\nparameters: all\nlearning_rate: {low: 1.0e-5, high: 8.0e-5}\n"
    )
    (tmp_path / "evil_pair.yaml").write_text("like: testbed\nname: /tmp/EVIL\n")
    (tmp_path / "evil_reference.yaml").write_text("like: testbed\nreferences: {../EVIL: ./m}\n")
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/evil.yaml").write_text("task: ../EVIL\nmetadata: {kind: safe}\n")
    (tmp_path / "evil/group.yaml").write_text("group: evil_task\ntask: [../EVIL]\n")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    (tmp_path / "built/weights").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("compare --pair testbed --model m", "both --pair and --model are given"),
        ("compare --methods evil.yaml", "evil.yaml: key 'name': '../../../EVIL' is not a valid name"),
        ("compare --pair evil_pair.yaml", "evil_pair.yaml: key 'name': '/tmp/EVIL' is not a valid name"),
        ("compare --pair evil_reference.yaml", "evil_reference.yaml: key 'references.../EVIL"),
        (
            "compare --tasks evil_task,testbed --include-path evil",
            "evil/evil.yaml: key 'task': '../EVIL' is not a valid",
        ),
        ("evaluate taken --name ../EVIL --pair testbed", "'../EVIL' is not a valid name"),
        ("evaluate adapter --tasks testbed --judge rules", "give its base model: --pair NAME or --model MODEL"),
        ("compare --pair testbet", "unknown pair 'testbet'; did you mean testbed"),
        ("compare --pair testbed --methods sials", "unknown method 'sials'; did you mean sails"),
        ("compare --pair testbed --methods lora,lora", "each method once"),
        ("compare --pair testbed --tasks testbed_save,testbed_harmful_unseen", "did you mean testbed_safe"),
        ("compare --pair testbed --judge rule", "unknown judge 'rule'; did you mean rules"),
        ("compare --pair testbed --train nowhere.jsonl", "nowhere.jsonl"),
        ("compare --pair testbed --train broken.jsonl", "broken.jsonl:2"),
        ("compare --pair testbed --train lacking.jsonl", "lacking.jsonl:1"),
        ("compare --pair testbed --contrast good.jsonl", "good.jsonl"),
        ("compare --config config.yaml", "config.yaml: unknown key 'sedes'; did you mean seeds"),
        ("compare --pair testbed --methods lora,wide.yaml", "spans a factor"),
        ("compare --pair testbed --methods rank.yaml", "rank.yaml: key 'peft': r cannot be set here"),
        ("compare --pair testbed --methods typo.yaml", "typo.yaml: unknown key 'paramters'; did you mean parameters"),
        ("compare --seeds 99999999999999999999", "--seeds: input should be less than or equal to 10000"),
        ("compare --jobs 1000000", "--jobs: input should be less than or equal to 4096"),
        ("compare --rank 1000000000000", "--rank: input should be less than or equal to 65536"),
        ("compare --max-length 100000000000", "--max-length: input should be less than or equal to 10000000"),
        ("compare --learning-rate=abc", "--learning-rate: 'abc' is not a learning rate; give X, such as 1e-4"),
        ("compare --learning-rate -1e-4", "--learning-rate: input should be greater than 0"),
        ("compare --learning-rate nan", "--learning-rate: input should be a finite number"),
        ("compare --learning-rate sails=1e-4,lora=x", "'sails=1e-4,lora=x' is not a learning rate"),
        ("compare --device gpu", "--device: 'gpu' is not a device; use auto, cpu, cuda or cuda:N"),
        ("compare --micro-batch-size x", "--micro-batch-size: input should be a valid integer or 'auto' (found 'x')"),
        ("compare --pair testbed --seeds 0", "--seeds: input should be"),
        (
            "compare --model m --train good.jsonl --tasks testbed",
            "model 'm': no such folder\nno judge; give --judge\nmethod 'sails' needs SAEs\nmethod 'sails' contrasts",
        ),
        (
            "compare --model m --train good.jsonl --judge rules",
            "no tasks; give --tasks\nmodel 'm': no such folder\nmethod 'sails' needs SAEs\nmethod 'sails' contrasts",
        ),
        (
            "compare --model taken --judge rules --tasks testbed",
            "no training data; give --train\nmethod 'sails' needs SAEs",
        ),
        ("compare --pair testbed --tasks testbed_safe,testbed_facts", "no harmful task"),
        (
            "compare --model taken --chat-template x.jinja --judge rules --tasks testbed --train good.jsonl",
            "x.jinja\nmethod 'sails' needs SAEs\nmethod 'sails' contrasts",
        ),
        (
            "compare --model m --train good.jsonl --judge rules --tasks testbed",
            "model 'm': no such folder\nmethod 'sails' needs SAEs\nmethod 'sails' contrasts",
        ),
        ("compare --pair testbed --quick --seeds 3", "--quick sets --seeds"),
        ("compare --pair testbed,testbed", "two of the pairs have the same name"),
        ("compare --pair testbed --examples 16,16", "--examples: a value is given twice (16, 16)"),
        ("compare --pair testbed --examples 0", "--examples: input should be"),
        ("compare --pair testbed --comparisons sails:loar", "unknown method in comparisons 'loar'; did you mean lora"),
        (
            "compare --pair testbed --add lora",
            "--add METHOD (or --reference MODEL) and --against RUN must be given together",
        ),
        ("compare --add lora --against taken", "--against taken: not a run folder"),
        ("train lora --pair testbed,testbed --out new", "--pair: only compare takes several values (testbed, testbed)"),
        ("train lora --pair testbed --out taken", "--out taken: the folder is not empty"),
        ("testbed build", "no destination; give --out DIR to write into a new folder"),
        ("testbed build --out built", "--out built: already contains weights"),
        ("testbed build --in-place --organisms 4", "--in-place: additional organisms always go to the user's cache"),
        ("leaderboard show nowhere", "nowhere"),
        ("power --difference 0.05 --from nowhere", "nowhere"),
        ("tasks new t --from lacking.jsonl --prompt-column goal --kind harmful", "goal"),
    ],
)
def test_bad_input_is_a_clear_line_for_every_problem(
    arguments: str, words: str, bad_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_in(bad_files)
    assert main(arguments.split()) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [*dropwhile(lambda line: not line.startswith("sails-eval: "), lines)]  # what this runs on stands above
    for line, told in zip(lines, words.splitlines(), strict=True):
        assert line.startswith("sails-eval: error: ") and told in line
    assert files_in(bad_files) == before  # nothing was left behind


def test_an_endpoint_out_of_reach_is_an_error_before_training(
    bad_files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    assert main("compare --pair testbed --judge openai:some-model --methods lora -q".split()) == 2
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error and "not-a-key" not in error
    assert not Path("runs").exists()


def test_contrast_is_data_and_comparisons_are_differences_between_rows(
    bad_files: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earlier names are taken, each with one warning, and no help text has them."""
    for command in ("compare", "plan", "power"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert "--comparisons" in shown and "contrasts" not in shown
    told = parser("compare").parse_args(["compare", "--contrasts", "sails:lora"])
    assert read_config(told).comparisons == ("sails:lora",)
    (bad_files / "earlier.yaml").write_text("contrasts: [sails:full]\n")
    assert read_config(parser("compare").parse_args(["compare", "--config", "earlier.yaml"])).comparisons == (
        "sails:full",
    )
    assert caplog.messages == [
        "--contrasts is deprecated; use --comparisons instead",
        "earlier.yaml: key 'contrasts' is deprecated; rename it to 'comparisons'",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_are_closed_stop_nothing(closed: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m sails_eval leaderboard check nowhere.csv {closed}'
    shown = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert shown.returncode == 2 and shown.stdout == ""
    assert ("nowhere.csv: no such run folder or board" in shown.stderr) == ("2>" not in closed)


def test_what_an_encoding_lacks_is_printed_as_its_number() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sails_eval", "docs", "durability"],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert b"\\u" in shown.stdout and shown.stdout.isascii()


def test_help_imports_nothing_heavy() -> None:
    for command in ("--help", "compare --help", "tasks new --help"):
        shown = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "sails_eval", *command.split()],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "usage: sails-eval" in shown.stdout
        imported = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines()}
        assert not imported & {"torch", "transformers", "pandas", "pydantic", "yaml", "lm_eval", "datasets"}


def test_a_task_is_made_checked_and_listed(bad_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = [f'{{"goal": "please describe a thing of kind {i}"}}' for i in range(10)]
    Path("prompts.jsonl").write_text("\n".join(prompts))
    new = "tasks new things --from prompts.jsonl --prompt-column goal --kind safe"
    assert main(new.split()) == 0
    assert main(["tasks", "check", "tasks/things"]) == 0
    capsys.readouterr()
    assert main(["tasks", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("things")]
    assert line.split()[1:4] == ["safe", "2", "8"]
    held_back = Path("tasks/things/data/validation.jsonl").read_text().splitlines()
    assert len(held_back) == 2
    assert main(new.split()) == 2  # it is there already
