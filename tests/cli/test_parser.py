"""What people type: underscores for hyphens, and lists with commas, with spaces, or both."""

from typing import Any

import pytest

from sails_eval.cli import parser


def parsed(line: str) -> dict[str, Any]:
    words = line.split()
    return vars(parser(words[0]).parse_args(words))


@pytest.mark.parametrize("line", ["--learning_rates 3", "--learning_rates=3", "--learning-rates 3"])
def test_underscores_are_hyphens(line: str) -> None:
    assert parsed(f"compare {line}")["learning_rates"] == 3


def test_underscores_in_values_stay() -> None:
    assert parsed("evaluate my_model --max_new_tokens 5 --tasks my_task --name a_b")["tasks"] == ("my_task",)
    assert (
        str(parsed("tasks new my_task --from my_file.csv --prompt_column my_col --kind safe")["source"])
        == "my_file.csv"
    )


def test_lists_behind_an_equals_sign_take_both() -> None:
    assert parsed("compare --methods=sails lora,full --quick")["methods"] == ("sails", "lora", "full")


@pytest.mark.parametrize("given", ["sails,lora,full", "sails lora full", "sails, lora full", "sails,lora full"])
def test_lists_have_commas_or_spaces(given: str) -> None:
    assert parsed(f"compare --methods {given} --quick")["methods"] == ("sails", "lora", "full")


def test_every_list_takes_both() -> None:
    got = parsed("compare --examples 16 64 --pair a b --sae x y --sae z --reference p q --target-modules q_proj v_proj")
    assert got["examples"] == (16, 64) and got["pair"] == "a,b" and got["target_modules"] == ("q_proj", "v_proj")
    assert list(map(str, got["sae"])) == ["x", "y", "z"] and got["reference"] == ["p", "q"]
    assert parsed("durability RUN --attack benign:5 merge")["attack"] == ("benign:5", "merge")


@pytest.mark.parametrize(
    ("line", "tasks"),
    [
        ("--tasks a,b TARGET", ("a", "b")),
        ("--tasks a b TARGET", ("a", "b")),
        ("--tasks a TARGET --name n", ("a",)),
        ("TARGET --tasks a b", ("a", "b")),
        ("--name n TARGET --tasks a b", ("a", "b")),
        ("--tasks=a,b TARGET", ("a", "b")),
        ("--tasks a b -- TARGET", ("a", "b")),
    ],
)
def test_a_list_leaves_the_target_alone(line: str, tasks: tuple[str, ...]) -> None:
    got = parsed(f"evaluate {line}")
    assert got["target"] == "TARGET" and got["tasks"] == tasks


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("train --gradient-checkpointing lora --out x", "on"),
        ("train lora --gradient_checkpointing --out x", "on"),
        ("train lora --gradient-checkpointing off --out x", "off"),
        ("train --gradient-checkpointing=auto lora --out x", "auto"),
        ("train lora --out x", None),
    ],
)
def test_a_switch_with_a_word_leaves_the_method_alone(line: str, value: str | None) -> None:
    got = parsed(line)
    assert (got["method"], got["gradient_checkpointing"]) == ("lora", value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("compare --methodz x", "unknown flag --methodz; did you mean --methods?"),
        ("compare --zzz x", "unknown flag --zzz"),
        ("compare --rank x", "argument --rank: invalid int value: 'x'"),
    ],
)
def test_a_wrong_flag_is_one_line(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parsed(line)
    assert capsys.readouterr().err == f"sails-eval: error: {told} (see: sails-eval compare --help)\n"
