"""How judges are named."""

import pytest

from sails_eval.errors import UserError
from sails_eval.judges import load_judge


@pytest.mark.parametrize(
    ("spec", "name", "parallel"),
    [
        ("rules", "rules", True),
        ("testbed", "testbed", True),
        ("hf:me/tiny", "hf:me/tiny", True),
        ("openai:ft:gpt:me::1", "openai:ft:gpt:me::1", False),
    ],
)
def test_judges_by_name(spec: str, name: str, parallel: bool) -> None:
    judge = load_judge(spec)
    assert (judge.name, judge.parallel) == (name, parallel)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rule", "unknown judge 'rule'; did you mean rules"),
        ("gpt:x", "unknown judge 'gpt'; known: grammar, hf, openai, rules, testbed"),
        ("hf", "judge 'hf' is not of the form 'hf:MODEL'"),
        ("openai:", "judge 'openai:' is not of the form 'openai:MODEL'"),
        ("rules:fast", "judge 'rules:fast' is not of the form 'rules'"),
    ],
)
def test_bad_names_are_explained(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        load_judge(spec)
