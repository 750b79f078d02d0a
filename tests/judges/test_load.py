"""How judges are named."""

from pathlib import Path

import pytest

from sails_eval import judges
from sails_eval.cli import main
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_jsonl, write_jsonl
from sails_eval.core.records import Completion
from sails_eval.judges import load_judge
from sails_eval.judges.rubric import PARAPHRASES, RUBRICS
from sails_eval.judges.spec import parse, trusting


@pytest.mark.parametrize(
    ("spec", "name", "parallel"),
    [
        ("rules", "rules", True),
        ("testbed", "testbed", True),
        ("hf:me/tiny", "hf:me/tiny", True),
        ("openai:ft:gpt:me::1", "openai:ft:gpt:me::1", False),
        ("hf:me/tiny?batch_size=4&rubric=harm_brief", "hf:me/tiny", True),
        ("rules,testbed", "panel(rules, testbed)", True),
        ("rules, openai:x?rubric=helpfulness ,testbed", "panel(rules, openai:x, testbed)", False),
        ("cascade:rules, openai:x?rpm=60", "cascade(rules, openai:x)", False),
    ],
)
def test_judges_by_name(spec: str, name: str, parallel: bool) -> None:
    judge = load_judge(spec)
    assert (judge.name, judge.parallel) == (name, parallel)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rule", "unknown judge 'rule'; did you mean rules"),
        ("gpt:x", "unknown judge 'gpt'; known: (example_judge, )?grammar, hf, learned, openai, rules, testbed, zoo"),
        ("hf", "judge 'hf' is not of the form 'hf:MODEL'"),
        ("openai:", "judge 'openai:' is not of the form 'openai:MODEL'"),
        ("rules:fast", "judge 'rules:fast' is not of the form 'rules'"),
        ("rules,", "unknown judge ''"),
        ("rules,hf:", "judge 'hf:' is not of the form 'hf:MODEL'"),
        ("rules?batch_size=3", "judge 'rules' has no option 'batch_size'; its options: none"),
        ("grammar?rubric=harm", "judge 'grammar' has no option 'rubric'; its options: none"),
        ("testbed?rubric=harm_gain", "judge 'testbed' has no option 'rubric'; its options: none"),
        ("hf:x?batchsize=3", "judge 'hf:x' has no option 'batchsize'; its options: batch_size, .*, off_menu, rubric"),
        ("hf:x?rubrics=harm", "judge 'hf:x' has no option 'rubrics'; its options: batch_size, .*, off_menu, rubric"),
        (
            "openai:x?rubrics=harm",
            "judge 'openai:x' has no option 'rubrics'; its options: concurrency, max_tokens, patience,",
        ),
        ("openai:x?model=y", "judge 'openai:x' has no option 'model'; .*price_out, rpm, rubric, timeout, tpm$"),
        (
            "zoo:xstest?rubric=harm",
            "judge 'zoo:xstest' has no option 'rubric'; its options: model, other, trust_remote",
        ),
        ("rules,zoo:xstest?name=y", "judge 'zoo:xstest' has no option 'name'"),
        ("hf:x?batch_size=0", "judge 'hf:x': key 'batch_size': input should be greater"),
        ("hf:x?name=y", "judge 'hf:x' has no option 'name'"),
        ("openai:x?concurrency=many", "judge 'openai:x': key 'concurrency': .*valid integer"),
        ("zoo:xstest?trust_remote_code=on", "judge 'zoo:xstest': key 'trust_remote_code': input should be 'yes'"),
        (
            "hf:x?batch_size",
            r"judge 'hf:x\?batch_size': 'batch_size' is not KEY=VALUE, as in hf:x\?key=value&key=value",
        ),
        ("hf:x?batch_size=1&batch_size=2", ".*option 'batch_size' given twice"),
        ("hf:x?rubric=harn_brief", "unknown rubric 'harn_brief'; did you mean harm_brief"),
        (
            "hf:x?rubric=harm_brief+harm",
            "rubric=harm_brief.harm: 'harm_brief' and 'harm' are both for harmful requests",
        ),
        ("hf:x?rubric=mine.yaml", "mine.yaml: no such file"),
    ],
)
def test_bad_names_are_explained(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        load_judge(spec)


def test_a_judge_of_ones_own_package_is_asked_for_as_any_other(example_package: Path) -> None:
    usual, own = load_judge("example_judge"), load_judge("example_judge:No way?match_case=yes")
    assert (usual.name, own.name) == ("example_judge:sorry", "example_judge:No way")
    assert usual.fingerprint != own.fingerprint
    answers = [Completion(text, "q", text, "c") for text in ("Sorry!", "No way.", "no way.")]
    assert [verdict.label for verdict in usual.judge("safe", answers)] == ["refusal", "compliance", "compliance"]
    assert [verdict.score for verdict in own.judge("harmful", answers)] == [5, 1, 5]
    assert load_judge("rules,example_judge").name == "panel(rules, example_judge:sorry)"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("example_juge", "unknown judge 'example_juge'; did you mean example_judge"),
        ("other", "unknown judge 'other'; known: example_judge, grammar, hf, "),
        ("example_judge:", "judge 'example_judge:' is not of the form 'example_judge:PHRASE'"),
        ("example_judge?case=no", "judge 'example_judge' has no option 'case'; its options: match_case"),
        ("example_judge?match_case=x", "judge 'example_judge:sorry': key 'match_case': input should be a valid bool"),
    ],
)
def test_what_a_judge_of_ones_own_does_not_take_is_explained(example_package: Path, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        load_judge(spec)


def test_what_is_no_judge_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "_maker", lambda kind: object)
    with pytest.raises(UserError, match=r"judge 'odd': object is not a subclass of sails_eval\.judges\.base\.Judge"):
        load_judge("odd")


def test_judge_score_takes_a_judge_of_ones_own(example_package: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{"prompt": "q", "response": text} for text in ("I am sorry.", "Here it is.")])
    command = ["judge", "score", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"), "--kind", "harmful"]
    assert main([*command, "--judge", "example_judge"]) == 0
    assert [row["score"] for row in read_jsonl(tmp_path / "out.jsonl")] == [1, 5]


def test_specs_can_be_changed() -> None:
    one, other = parse("hf:a/b?batch_size=2&rubric=x, rules")
    assert (one.kind, one.model, one.bare, str(other)) == ("hf", "a/b", "hf:a/b", "rules")
    assert str(one.having(rubric="y")) == "hf:a/b?batch_size=2&rubric=y"
    assert trusting("zoo:md_judge?other=rules,rules") == "zoo:md_judge?other=rules&trust_remote_code=yes,rules"


def test_a_rubric_of_ones_own_is_one_file_and_part_of_the_fingerprint(tmp_path: Path, tiny_llama_dir: Path) -> None:
    text = (RUBRICS / "harm.yaml").read_text().replace("You grade", "Grade")
    (tmp_path / "mine.yaml").write_text(text)
    spec = f"hf:{tiny_llama_dir}"
    usual, mine = load_judge(spec).fingerprint, load_judge(f"{spec}?rubric={tmp_path}/mine.yaml").fingerprint
    (tmp_path / "mine.yaml").write_text(text.replace("version: 2", "version: 3"))
    changed = load_judge(f"{spec}?rubric={tmp_path}/mine.yaml").fingerprint
    both = load_judge(f"{spec}?rubric={tmp_path}/mine.yaml+refusal").fingerprint
    others = [load_judge(f"{spec}?rubric={name}").fingerprint for name in PARAPHRASES]
    assert len({usual, mine, changed, both, *others}) == 7
    assert load_judge(f"{spec}?rubric=harm&batch_size=3").fingerprint == usual
    api = [load_judge(f"openai:x{end}").fingerprint for end in ("", "?rubric=harm", "?rubric=harm_gain")]
    assert api[0] == api[1] != api[2]


def test_panels_and_lists_go_through_the_configuration() -> None:
    assert CompareConfig(judge="rules,testbed,grammar").judge == "rules,testbed,grammar"
    assert CompareConfig.model_validate({"judge": ["rules", "testbed"]}).judge == "rules,testbed"
