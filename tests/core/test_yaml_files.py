"""YAML that other people wrote: whatever is wrong with it is one line with file and line, soon."""

from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.schema import read_mapping
from sails_eval.core.yaml_files import DEEPEST, parse_yaml

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


def test_what_yaml_can_say_is_read() -> None:
    text = "a: &a {b: [1, 2.5, true, null, 2001-01-01]}\nc: *a\nd: {<<: *a, e: é}\n"
    values = parse_yaml("f.yaml", text)
    assert values["c"] == values["a"] and values["d"]["e"] == "é" and values["d"]["b"][:2] == [1, 2.5]
    nested = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    assert parse_yaml("f.yaml", f"a: {nested}") and parse_yaml("f.yaml", "") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [1", r"not valid YAML: while parsing .* line 1"),
        ("a: 1\n---\nb: 2", "not valid YAML: expected a single document"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML: could not determine a constructor"),
        ("a: \0", "not valid YAML: unacceptable character"),
        ('a: 1\nb: "\\0"', "f.yaml:2: a text holds NUL"),
        ('a: "\\ud83d"', "f.yaml:1: a text holds NUL or half of a surrogate pair"),
        ("a: 2001-99-99", "f.yaml:1: cannot read the value '2001-99-99'"),
        (f"a: {'9' * 5000}", r"f.yaml:1: cannot read the value '9{39} \(Exceeds the limit \(4300 digits\)"),
        ("a: !!bool x", "f.yaml:1: cannot read the value 'x'"),
        ("a: !!timestamp x", "f.yaml:1: cannot read the value 'x'"),
        ("a:\n  b: &b {c: *b}", "f.yaml:2: an alias .* refers to a value that contains it"),
        (BOMB, r"f.yaml:\d+: aliases .* multiply to more than 100,000 values"),
        ("a: " + "[" * 100 + "]" * 100, "f.yaml:1: nested too deeply; at most 50 levels"),
        ("\n".join(" " * n + "a:" for n in range(800)), "not valid YAML: nested too deeply"),
    ],
)
def test_what_it_cannot_is_one_line(text: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        parse_yaml("f.yaml", text)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("f.yaml:")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a", "expected keys and values, found list"),
        ("3: a", "key 3 is not text; write it in quotes"),
        ("like: lora\nrank_factor: .inf", "key 'rank_factor': input should be a finite number"),
        ("like: lora\nrank_factor: 1.0e+6", "key 'rank_factor': input should be less than or equal to 1000"),
        ("like: lora\nlearning_rate: {low: .nan, high: 1}", "key 'learning_rate.low': "),
        (f"like: {'9' * 400}", "key 'like': unknown method '9"),
        ("like: lora\nlearning_rate: words", "key 'learning_rate': input should be a mapping"),
        ("like: lora\npeft: {megatron_config: {a: 1}}", "key 'peft': megatron_config cannot be set by a method"),
        ("like: lora\npeft: [a]", "key 'peft': "),
    ],
)
def test_a_recipe_of_wrong_values_names_the_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_pair_like_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"like: {'x' * 400}")
    with pytest.raises(UserError, match="unknown pair 'xxx"):
        load_pair(str(tmp_path / "p.yaml"))


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match=r"r.yaml: not valid YAML: not UTF-8"):
        read_mapping(tmp_path / "r.yaml")
