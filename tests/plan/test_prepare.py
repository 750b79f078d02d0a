import json
import shutil
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sails_eval.boards.contrasts import Contrast
from sails_eval.core import paths
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource, load_pair
from sails_eval.data.reading import read_contrast
from sails_eval.plan.identity import recipe_identity, training_identity
from sails_eval.plan.plan import SubRun
from sails_eval.plan.prepare import prepare, prepare_evaluation
from sails_eval.plan.resolve import resolve_pair
from sails_eval.run.folder.run_folder import RunFolder

METHODS = ("sails", "lora", "full")


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def task(name: str, kind: str, **settings: Any) -> None:
    """A task in ./tasks that is only planned with, so it needs no documents."""
    splits = {"validation_split": "validation", "test_split": "test", "doc_to_text": "prompt"}
    metadata = {"kind": kind, **settings.pop("metadata", {})}
    Path("tasks").mkdir(exist_ok=True)
    Path(f"tasks/{name}.yaml").write_text(yaml.safe_dump({"task": name, "metadata": metadata} | splits | settings))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What it takes to compare methods on a model of one's own, in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "sae"):
        Path(name).mkdir()
        (Path(name) / "config.json").write_text(name)
    jsonl(Path("train.jsonl"), {"prompt": "a", "response": "b"})
    jsonl(Path("contrast.jsonl"), {"prompt": "a", "chosen": "b", "rejected": "c"})
    task("bad", "harmful")
    task("good", "safe")
    return {
        "model": "model",
        "sae": (Path("sae"),),
        "train": Path("train.jsonl"),
        "contrast": Path("contrast.jsonl"),
        "contrast_examples": "all",
        "tasks": ("bad", "good"),
        "judge": "rules",
    }


def planned(config: CompareConfig) -> SubRun:
    """The one sub-run of a comparison of one pair at one budget."""
    (sub_run,) = prepare(config).sub_runs
    return sub_run


def looked_at(pair: Pair) -> Pair:
    """The pair without the contrast data, which nobody looks at where the training sample is contrasted."""
    return pair.model_copy(update={"contrast": None, "requests": None})


# --- which model -------------------------------------------------------------------------------------------------


def test_a_pair_and_a_model_are_too_many() -> None:
    with pytest.raises(UserError, match="both --pair and --model are given"):
        resolve_pair(CompareConfig(pair="testbed", model="model"))


def test_without_either_the_embedded_pair_is_meant() -> None:
    assert resolve_pair(CompareConfig()) == looked_at(load_pair("testbed"))


@pytest.mark.parametrize(("folder", "name"), [("my model", "my model"), (".hidden", "hidden"), ("a,b:c", "a-b-c")])
def test_a_name_that_comes_from_a_path_is_made_plain(folder: str, name: str, tmp_path: Path) -> None:
    assert resolve_pair(CompareConfig(model=str(tmp_path / folder))).name == name


def test_a_model_of_ones_own_becomes_a_pair(asked: dict[str, Any], tmp_path: Path) -> None:
    pair = resolve_pair(CompareConfig(**asked, tokens=50))
    assert pair == Pair(
        name="model",
        model="model",
        saes=(SaeSource(path=tmp_path / "sae"),),
        train=tmp_path / "train.jsonl",
        contrast=tmp_path / "contrast.jsonl",
        contrast_examples="all",
        target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),  # as nothing says what model it is
        tasks=("bad", "good"),
        judge="rules",
        tokens=50,
    )


def test_flags_go_before_the_pair(asked: dict[str, Any], tmp_path: Path) -> None:
    shipped = looked_at(load_pair("testbed"))
    assert resolve_pair(CompareConfig(pair="testbed")) == shipped
    pair = resolve_pair(CompareConfig(pair="testbed", judge="rules", tokens=7, train=Path("train.jsonl")))
    assert (pair.judge, pair.tokens, pair.train) == ("rules", 7, tmp_path / "train.jsonl")
    assert (pair.model, pair.saes, pair.contrast) == (shipped.model, shipped.saes, shipped.contrast)


# --- what cannot work --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"judge": None}, "no judge; give --judge"),
        ({"tasks": None}, "no tasks; give --tasks"),
        ({"tasks": ()}, "no tasks; give --tasks"),
        ({"train": None}, "no training data; give --train"),
        ({"train": Path("none.jsonl")}, "none.jsonl: no such file or folder; correct --train"),
        ({"contrast": Path("none.jsonl")}, "none.jsonl: no such file or folder; correct --contrast"),
        ({"contrast": Path("train.jsonl")}, "train.jsonl: no pairs of two responses to the same request"),
        (
            {"contrast_examples": None},
            "contrast.jsonl: the number of contrast examples is missing; give --contrast-examples N",
        ),
        (
            {"contrast": None, "contrast_examples": None},
            r"method 'sails' contrasts the answers of the examples that it trains on, .*train.jsonl has no rejected",
        ),
        (
            {"methods": ("more",), "examples": (1,)},
            r"'more' trains on as many examples as .*, 2, but .*train.jsonl has only 1; give fewer",
        ),
        ({"chat_template": Path("none.jinja")}, "none.jinja: no such chat template file"),
        ({"judge": "rulez"}, "unknown judge 'rulez'; did you mean rules"),
        ({"judge": "hf:"}, "judge 'hf:' is not of the form 'hf:MODEL'"),
        ({"sae": (Path("none"),)}, "SAE '.*none': no such folder"),
        ({"sae": ()}, "method 'sails' needs SAEs, but pair 'model' has none; give --sae"),
        ({"engine": "fh"}, "unknown engine 'fh'; did you mean hf"),
        ({"reference": ("no/such",)}, "model 'no/such': no such folder"),
        (
            {"reference": ("../no/such",)},
            "model '../no/such': no such folder, and not a valid name of a model on the hub",
        ),
        ({"quick": True, "seeds": 3}, "--quick sets --seeds and --learning-rates itself"),
        ({"methods": ("loar",)}, "unknown method 'loar'; did you mean lora"),
        ({"methods": ()}, "give at least one method that trains, each method once"),
        ({"methods": ("lora", "lora")}, "give at least one method that trains, each method once"),
        ({"tasks": ("good",)}, "no harmful task with categories unseen"),
        ({"tasks": ("bad",)}, "no safe task with categories unseen"),
        ({"tasks": ("seen", "good")}, "no harmful task with categories unseen"),
        ({"tasks": ("untuned", "good")}, "no harmful task with a validation split, on which learning rates are"),
    ],
)
def test_what_cannot_work_is_an_error(asked: dict[str, Any], change: dict[str, Any], complaint: str) -> None:
    task("seen", "harmful", metadata={"seen_in_training": True})
    task("untuned", "harmful", validation_split=None)
    Path("adapters").mkdir()
    Path("adapters/more.yaml").write_text("{like: lora, examples: contrast}")
    with pytest.raises(UserError, match=complaint) as error:
        planned(CompareConfig(**asked | change))
    assert len(str(error.value).splitlines()) == 1  # one fault has one line


@pytest.mark.parametrize("what", ["train", "contrast"])
def test_data_that_cannot_be_read_has_no_identity(asked: dict[str, Any], what: str) -> None:
    sub_run = planned(CompareConfig(**asked))
    with pytest.raises(UserError, match=r"none.jsonl: cannot be read"):
        training_identity(sub_run.pair.model_copy(update={what: Path("none.jsonl")}), sub_run.recipes)


def test_everything_that_is_wrong_is_told_at_once(asked: dict[str, Any]) -> None:
    Path("adapters").mkdir()
    recipe = {"description": "d", "parameters": "adapter", "learning_rate": {"low": 1e-4, "high": 8e-4}}
    Path("adapters/mine.yaml").write_text(yaml.safe_dump(recipe | {"rank_facto": 2}))
    before = sorted(Path().rglob("*"))
    faults = {"train": Path("none.jsonl"), "tasks": ("bad", "godo"), "judge": "rulez", "methods": ("lora", "mine")}
    with pytest.raises(UserError) as error:
        prepare(CompareConfig(**asked | faults))
    recipe_told, task_told, judge_told, data_told = str(error.value).splitlines()
    assert "adapters/mine.yaml: unknown key 'rank_facto'; did you mean rank_factor" in recipe_told
    assert task_told == "unknown task 'godo'; did you mean good?"
    assert judge_told == "unknown judge 'rulez'; did you mean rules?"
    assert (
        data_told
        == f"{Path('none.jsonl').resolve()}: no such file or folder; correct --train, or key 'train' of pair 'model'"
    )
    assert sorted(Path().rglob("*")) == before  # nothing is written


def test_what_is_wrong_with_every_pair_is_told_once(asked: dict[str, Any]) -> None:
    flags = {key: value for key, value in asked.items() if key not in ("model", "sae")}
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"model": "./model", "saes": [{"path": f"sae-{name}"}]}))
    with pytest.raises(UserError) as error:
        prepare(CompareConfig(**flags | {"judge": "rulez"}, pair="one.yaml,two.yaml,three.yaml", methods=("loar",)))
    told = str(error.value).splitlines()
    assert [line.split(";")[0] for line in told] == [
        "unknown method 'loar'",
        "unknown judge 'rulez'",
        f"SAE '{Path('sae-one').resolve()}': no such folder",
        f"SAE '{Path('sae-two').resolve()}': no such folder",
        "three.yaml: no such file",
    ]


def test_an_evaluation_tells_everything_at_once_too(asked: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        prepare_evaluation(CompareConfig(**asked | {"tasks": ("godo",), "judge": "rulez", "engine": "fh"}))
    told = [line.split(";")[0] for line in str(error.value).splitlines()]
    assert told == ["unknown task 'godo'", "unknown engine 'fh'", "unknown judge 'rulez'"]


def test_an_evaluation_may_ask_tasks_of_one_kind_and_a_comparison_may_not(asked: dict[str, Any]) -> None:
    for name in ("bad", "good"):
        one = CompareConfig(**asked | {"tasks": (name,)})
        assert [task.name for task in prepare_evaluation(one).tasks] == [name]
        with pytest.raises(UserError, match=f"no {'safe' if name == 'bad' else 'harmful'} task"):
            prepare(one)


def test_tasks_with_code_of_their_own_are_warned_of_unless_trusted(
    asked: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    task("good", "safe", doc_to_text="{{prompt.__class__}}")
    prepare(CompareConfig(**asked, trust_tasks=True))
    assert "code of its own" not in caplog.text
    prepare(CompareConfig(**asked))
    assert caplog.text.count("task 'good' runs code of its own: the Jinja of 'doc_to_text'") == 1


def test_a_model_that_is_missing_is_told_once(asked: dict[str, Any]) -> None:
    wanted = {key: asked[key] for key in ("tasks", "judge")}
    with pytest.raises(UserError) as error:
        prepare_evaluation(CompareConfig(**wanted), target="../no/such")
    assert str(error.value).count("model '../no/such'") == 1


def test_a_plan_is_settled(asked: dict[str, Any]) -> None:
    config = CompareConfig(**asked, examples=(4, 2), comparisons=("sails:lora",))
    plan, again = prepare(config), prepare(config)
    assert plan == again and plan.identity == again.identity and plan.folder == again.folder
    assert plan.identity.fingerprint == again.identity.fingerprint
    assert plan.identity.parts.keys() == {"examples-2", "examples-4"} and plan.largest.examples == 4
    (sub_run, _), cell = plan.sub_runs, plan.sub_runs[0].all_cells()[0]
    for holder, name in ((plan, "config"), (sub_run, "seeds"), (sub_run.budget, "match"), (cell, "seed")):
        with pytest.raises(FrozenInstanceError):
            setattr(holder, name, getattr(holder, name))
    for identity in (plan.identity, sub_run.identity):
        with pytest.raises(ValidationError, match="frozen"):
            identity.judge = "another"


def test_an_unknown_pair_is_answered_with_the_nearest(asked: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="unknown pair 'tesbed'; did you mean testbed"):
        planned(CompareConfig(pair="tesbed"))


def test_without_learning_rates_to_choose_no_validation_is_needed(asked: dict[str, Any]) -> None:
    task("untuned", "harmful", validation_split=None)
    sub_run = planned(CompareConfig(**asked | {"tasks": ("untuned", "good")}, learning_rates=1))
    assert [task.name for task in sub_run.tasks] == ["untuned", "good"]
    assert [task.name for task in sub_run.validation_tasks] == ["good"]


def test_a_recipe_that_breaks_equality_is_refused(asked: dict[str, Any]) -> None:
    recipe = {"description": "d", "parameters": "adapter", "learning_rate": {"low": 1e-4, "high": 1e-3}}
    Path("adapters").mkdir()
    Path("adapters/mine.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="recipe 'mine': key 'learning_rate' spans a factor of 10, that of 'lora' 8"):
        planned(CompareConfig(**asked, methods=("lora", "mine")))
    Path("adapters/mine.yaml").write_text(yaml.safe_dump(recipe | {"peft": {"r": 2}}))
    with pytest.raises(UserError, match="r cannot be set here"):
        planned(CompareConfig(**asked, methods=("lora", "mine")))
    Path("adapters/base.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="which is always a row"):
        planned(CompareConfig(**asked, methods=("base",)))


# --- rates and cells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_rates_are_log_spaced_over_the_recipes_span(asked: dict[str, Any], scale: float) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump({"model": "./model", "learning_rate_scale": scale}))
    flags = {key: value for key, value in asked.items() if key != "model"}
    sub_run = planned(CompareConfig(**flags, pair="mine.yaml", learning_rates=5))
    assert [recipe.name for recipe in sub_run.recipes] == list(METHODS)
    for recipe in sub_run.recipes:
        rates, span = sub_run.rates(recipe), recipe.learning_rate
        assert span
        assert rates[0] == pytest.approx(scale * span.low, rel=0.01)
        assert rates[-1] == pytest.approx(scale * span.high, rel=0.01)
        steps = [high / low for low, high in pairwise(rates)]
        assert len(steps) == 4 and steps == pytest.approx([steps[0]] * 4, rel=0.01)
        assert rates == [float(f"{rate:.3g}") for rate in rates]


def test_a_single_rate_is_the_geometric_middle_of_the_span(asked: dict[str, Any]) -> None:
    sub_run = planned(CompareConfig(**asked, learning_rates=1))
    for recipe in sub_run.recipes:
        span = recipe.learning_rate
        assert span
        assert sub_run.rates(recipe) == [pytest.approx((span.low * span.high) ** 0.5, rel=0.01)]


def test_every_method_has_a_cell_for_each_rate_and_seed(asked: dict[str, Any]) -> None:
    sub_run = planned(CompareConfig(**asked, seeds=3, learning_rates=4))
    cells = [cell for recipe in sub_run.recipes for cell in sub_run.cells(recipe)]
    assert len(cells) == 3 * 3 * 4
    places = {RunFolder(Path()).cell(cell).path for cell in cells}
    assert len({cell.fingerprint for cell in cells}) == len(places) == len(cells)
    for recipe in sub_run.recipes:
        pairs = [(cell.learning_rate, cell.seed) for cell in sub_run.cells(recipe)]
        assert pairs == [(rate, seed) for rate in sub_run.rates(recipe) for seed in range(3)]


def test_quick_means_two_rates_and_two_seeds(asked: dict[str, Any]) -> None:
    quick = planned(CompareConfig(**asked, quick=True))
    assert (quick.seeds, quick.learning_rates) == ((0, 1), 2)
    assert quick.fingerprint == planned(CompareConfig(**asked, seeds=2, learning_rates=2)).fingerprint


# --- fingerprints ------------------------------------------------------------------------------------------------


def sub_run_of(asked: dict[str, Any], **change: Any) -> SubRun:
    return planned(CompareConfig(**asked | change))


def cells_of(sub_run: SubRun) -> dict[tuple[str, int], str]:
    """(method, seed) → fingerprint of its first rate's cell."""
    return {
        (cell.recipe.name, cell.seed): cell.fingerprint
        for r in sub_run.recipes
        for cell in sub_run.cells(r)[: len(sub_run.seeds)]
    }


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": 4},
        {"out": Path("elsewhere")},
        {"keep": "all"},
        {"train": Path("copy.jsonl")},
        {"include_path": (Path("empty"),)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_fingerprint_does_not_depend_on_what_makes_no_difference(
    asked: dict[str, Any], change: dict[str, Any]
) -> None:
    shutil.copy("train.jsonl", "copy.jsonl")
    Path("empty").mkdir()
    before, after = sub_run_of(asked), sub_run_of(asked, **change)
    assert after.fingerprint == before.fingerprint
    assert cells_of(after) == cells_of(before)


def change_files() -> None:
    """Other files beside the first ones, which a change can name."""
    for name in ("model", "sae"):
        shutil.copytree(name, f"{name}2")
        (Path(f"{name}2") / "config.json").write_text("changed")
    jsonl(Path("train2.jsonl"), {"prompt": "a", "response": "changed"})
    jsonl(Path("contrast2.jsonl"), {"prompt": "a", "chosen": "b", "rejected": "changed"})
    Path("chat.jinja").write_text("{{ messages }}")
    task("good2", "safe", doc_to_text="changed")


@pytest.mark.parametrize(
    ("change", "retrains"),
    [
        ({"model": "model2"}, METHODS),
        ({"sae": (Path("sae2"),)}, ("sails",)),
        ({"train": Path("train2.jsonl")}, METHODS),
        ({"contrast": Path("contrast2.jsonl")}, ("sails",)),
        ({"contrast_examples": 1}, ("sails",)),
        ({"chat_template": Path("chat.jinja")}, METHODS),
        ({"tokens": 99}, METHODS),
        ({"examples": 99}, METHODS),
        ({"tasks": ("bad", "good2")}, ()),
        ({"tasks": ("bad", "good", "good2")}, ()),
        ({"judge": "openai:some-model"}, ()),
        ({"seeds": 4}, ()),
        ({"limit": 3}, ()),
        ({"learning_rates": 3}, ()),
        ({"methods": ("lora", "sails")}, ()),
        ({"methods": ("lora", "full")}, ()),
        ({"comparisons": ("lora:full",)}, ()),
    ],
    ids=lambda change: "-".join(change) if isinstance(change, dict) else "",
)
def test_a_fingerprint_depends_on_all_that_determines_results(
    asked: dict[str, Any], change: dict[str, Any], retrains: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a key")  # there is no plan without it
    change_files()
    before, after = sub_run_of(asked), sub_run_of(asked, **change)
    assert after.fingerprint != before.fingerprint
    old, new = cells_of(before), cells_of(after)
    assert new and all((new[cell] != old[cell]) == (cell[0] in retrains) for cell in new)


def test_saes_are_part_of_a_runs_fingerprint_and_of_cells_that_start_from_them(asked: dict[str, Any]) -> None:
    """Without any, as `sails` cannot be planned: those that it would start from are in its training's identity."""
    others = ("lora", "full")
    before, after = (sub_run_of(asked, methods=others, sae=saes) for saes in ((Path("sae"),), ()))
    assert after.fingerprint != before.fingerprint and cells_of(after) == cells_of(before)
    with_sails = sub_run_of(asked)
    bare = training_identity(with_sails.pair.model_copy(update={"saes": ()}), with_sails.recipes)
    told = {recipe.name: recipe_identity(recipe, bare) for recipe in with_sails.recipes}
    assert {name for name, one in with_sails.identity.recipes.items() if told[name] != one} == {"sails"}


@pytest.mark.parametrize(
    "change",
    [
        {"rank": 2},
        {"alpha": 2},
        {"target_modules": ["q_proj"]},
        {"tokens": 2},
        {"examples": 2},
        {"batch_size": 2},
        {"micro_batch_size": 1},
        {"gradient_checkpointing": True},
        {"max_length": 9},
        {"dtype": "bfloat16"},
        {"attn_implementation": "eager"},
        {"eval_batch_size": 2},
        {"learning_rate_scale": 2.0},
        {"saes": [{"path": "sae", "layer": 1}]},
        {"saes": [{"release": "r", "id": "i"}]},
    ],
    ids=lambda change: "-".join(change),
)
def test_every_cell_depends_on_the_settings_of_its_pair(asked: dict[str, Any], change: dict[str, Any]) -> None:
    flags = {key: value for key, value in asked.items() if key not in ("model", "sae")}
    cells = []
    for name, settings in (("one", {}), ("other", change)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"model": "./model", "saes": [{"path": "sae"}]} | settings))
        cells.append(cells_of(planned(CompareConfig(**flags, pair=f"{name}.yaml"))))
    changed = {method for (method, _), fingerprint in cells[0].items() if fingerprint not in cells[1].values()}
    assert changed == ({"sails"} if "saes" in change else set(METHODS))


def test_the_seed_and_the_recipe_are_part_of_a_cells_fingerprint(asked: dict[str, Any]) -> None:
    Path("adapters").mkdir()
    text = (paths.bundled("adapters") / "sails.yaml").read_text()
    found: set[str] = set()
    for k in (32, 31):
        Path("adapters/mine.yaml").write_text(text.replace("k: 32", f"k: {k}"))
        found.update(cells_of(sub_run_of(asked, methods=("mine",))).values())
    assert len(found) == 2 * 5


@pytest.mark.parametrize("what", ["requests", "planted", "narrow"])
def test_a_fingerprint_depends_on_the_further_inputs_of_initialisations(asked: dict[str, Any], what: str) -> None:
    change_files()
    rows = [{"prompt": "a", "harmful": True}, {"prompt": "b", "harmful": False}]
    jsonl(Path("requests.jsonl"), *rows)
    Path("planted").write_text("one")
    settings = {"model": "./model", "requests": "requests.jsonl", "planted": "planted"}
    Path("mine.yaml").write_text(yaml.safe_dump(settings | {"sae_sets": {"narrow": [{"path": "sae2"}]}}))
    flags = {key: value for key, value in asked.items() if key != "model"}

    def fingerprint(method: str) -> str:
        return planned(CompareConfig(**flags, pair="mine.yaml", methods=(method,))).fingerprint

    before = {method: fingerprint(method) for method in ("sails", "sails-narrow", "lora")}
    if what == "requests":
        jsonl(Path("requests.jsonl"), *rows, *rows)
    else:
        Path("planted" if what == "planted" else "sae2/config.json").write_text("other")
    changed = {method for method, old in before.items() if fingerprint(method) != old}
    assert changed == ({"sails-narrow"} if what == "narrow" else {"sails", "sails-narrow"})


def test_a_further_input_that_is_not_there_is_an_error(asked: dict[str, Any]) -> None:
    flags = {key: value for key, value in asked.items() if key != "model"}
    Path("mine.yaml").write_text(yaml.safe_dump({"model": "./model", "planted": "none.safetensors"}))
    with pytest.raises(UserError, match=r"none.safetensors: no such file; correct key 'planted' of pair 'mine'"):
        planned(CompareConfig(**flags, pair="mine.yaml"))
    Path("mine.yaml").write_text(yaml.safe_dump({"model": "./model", "requests": "none.csv"}))
    with pytest.raises(UserError, match=r"none.csv: cannot be read"):
        planned(CompareConfig(**flags, pair="mine.yaml"))
    with pytest.raises(UserError, match="unknown SAE set of pair 'model': 'narrow'"):
        planned(CompareConfig(**asked, methods=("sails-narrow",)))


def test_what_is_said_of_a_recipe_is_no_part_of_a_cells_fingerprint(asked: dict[str, Any]) -> None:
    Path("adapters").mkdir()
    text = (paths.bundled("adapters") / "lora.yaml").read_text()
    Path("adapters/mine.yaml").write_text(text)
    before = cells_of(sub_run_of(asked, methods=("mine",)))
    recipe = yaml.safe_load(text) | {"description": "in other words", "source": "somebody"}
    Path("adapters/mine.yaml").write_text(yaml.safe_dump(recipe))
    assert cells_of(sub_run_of(asked, methods=("mine",))) == before


# --- declared comparisons ----------------------------------------------------------------------------------------


def test_comparisons_are_pairs_of_rows(asked: dict[str, Any]) -> None:
    sub_run = sub_run_of(asked, comparisons=("sails:lora", "full:base"))
    assert sub_run.contrasts == (Contrast("sails", "lora"), Contrast("full", "base"))
    assert sub_run_of(asked).contrasts is None
    none = sub_run_of(asked, comparisons=())
    assert none.contrasts == () and none.identity.told()["contrasts"] == []


@pytest.mark.parametrize(
    ("contrast", "complaint"),
    [
        ("sails", "'sails' does not have the form A:B"),
        ("sails:lora:full", "'sails:lora:full' does not have the form A:B"),
        ("sails:sails", "'sails' against 'sails': name two different rows"),
        ("sails:loar", "unknown method in comparisons 'loar'; did you mean lora"),
        ("lora:sails", "'lora' against 'sails': .*each pair once"),
        ("full:base@safty_rate", "unknown metric in comparisons 'safty_rate'; did you mean safety_rate"),
        ("best:rest", "'best:rest' needs --protocol confirm"),
    ],
)
def test_a_contrast_of_something_else_is_an_error(asked: dict[str, Any], contrast: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        sub_run_of(asked, comparisons=("sails:lora", contrast))


def test_an_evaluation_needs_no_training_data(asked: dict[str, Any]) -> None:
    plan = prepare_evaluation(CompareConfig(**asked | {"train": None, "contrast": None}))
    assert plan.judge.spec == "rules" and not isinstance(plan, SubRun)  # which has recipes
    assert not plan.identity.training and "training" not in plan.identity.told()


def test_contrast_data_counts_only_where_a_method_looks_at_it(asked: dict[str, Any]) -> None:
    change_files()
    without = {"methods": ("lora", "random-orthonormal")}
    one, other = (sub_run_of(asked, **without, **more) for more in ({}, {"contrast": Path("contrast2.jsonl")}))
    assert one.fingerprint == other.fingerprint and "contrast" not in one.identity.training
    pair: dict[str, Any] = {"pair": "testbed", "methods": ("sails", "random-orthonormal")}
    sample = sub_run_of(pair)
    assert sample.identity.training["contrast_examples"] == {"sample": sample.pair.tokens}
    assert "contrast" not in sample.identity.training and "requests" not in sample.identity.training
    whole = sub_run_of(pair, contrast_examples="all")
    changed = {name for name, of in sample.identity.recipes.items() if whole.identity.recipes[name] != of}
    assert changed == {"sails"}


def test_each_seed_starts_from_its_own_sample_or_all_from_the_same() -> None:
    def starts(**more: Any) -> list[tuple[int | None, ...]]:
        one = sub_run_of({}, pair="testbed", methods=("sails", "random-orthonormal", "lora"), seeds=3, **more)
        for recipe in one.recipes:
            assert [cell.start_seed for cell in one.cells(recipe)[:3]] == list(one.starts(recipe) or (None,)) * (
                1 if len(one.starts(recipe)) == 3 else 3
            )
        return [one.starts(recipe) for recipe in one.recipes]

    assert starts() == starts(contrast_examples=5) == [(0, 1, 2), (None,), ()]
    assert starts(contrast_examples="all") == [(None,), (None,), ()]


def test_a_row_can_have_as_many_labelled_examples_as_those_see_that_contrast_others() -> None:
    def examples(**more: Any) -> tuple[SubRun, list[int | None]]:
        one = sub_run_of({}, pair="testbed", methods=("lora", "lora-equal-labels"), examples=(32,), **more)
        return one, [one.cells(recipe)[0].budget(one.pair).examples for recipe in one.recipes]

    plain, same = examples()
    assert same == [32, 32] and "no more labelled examples" in plain.budget.notes["lora-equal-labels"]
    some, more = examples(contrast_examples=60)
    assert more == [32, 92] and "draws 92 labelled examples" in some.budget.notes["lora-equal-labels"]
    other, _ = examples(contrast_examples=61)
    assert other.identity.recipes["lora-equal-labels"] != some.identity.recipes["lora-equal-labels"]
    assert other.identity.recipes["lora"] == some.identity.recipes["lora"] == plain.identity.recipes["lora"]
    whole, most = examples(contrast_examples="all")
    assert whole.pair.contrast and most == [32, 32 + len(read_contrast(whole.pair.contrast).examples)]


def test_what_only_a_new_run_needs_is_not_asked_of_a_finished_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked = CompareConfig(methods=("lora",), judge="openai:some-model", reference=("openai:other-model",))
    with pytest.raises(UserError) as error:
        prepare(asked)
    assert [line.split(" needs ")[0] for line in str(error.value).splitlines()] == [
        "judge 'openai:some-model'", "reference 'openai:other-model'",
    ]  # fmt: skip
    assert prepare(asked, anew=False).sub_runs[0].judge.spec == "openai:some-model"


def test_what_takes_no_model_is_told_with_all_the_rest(asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text("like: testbed\nbatch_size: 5\nreference_judge: grammer\n")
    more: dict[str, Any] = {
        "methods": ("lora", "dpo"),
        "comparisons": ("lora", "lora:zz", "lora:dpo"),
        "judge": "rulez",
    }
    with pytest.raises(UserError) as error:
        prepare(CompareConfig(pair=str(tmp_path / "odd.yaml"), **more))
    told = str(error.value).splitlines()
    for line, words in zip(
        told,
        ("'rulez'", "'grammer'", "'batch_size' is 5", "'lora' does not have the form A:B", "comparisons 'zz'"),
        strict=True,
    ):
        assert words in line
