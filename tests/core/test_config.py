from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sails_eval.core import paths
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource, load_pair, read_yaml
from sails_eval.core.recipe import Recipe, Span, check_equal_spans, defaults, load_recipe, recipe_files
from sails_eval.core.schema import read_mapping, validate
from sails_eval.models.adapters import adapter_config


def write(path: Path, **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


# --- any file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a: [1", "not valid YAML: "),
        (b"\xff\xfe\xfa", "not valid YAML: "),
        (b"just words", "expected keys and values, found str"),
        (b"- a\n- b", "expected keys and values, found list"),
        (b"", "expected keys and values, found NoneType"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_no_mapping_is_an_error_of_one_line(
    tmp_path: Path, content: bytes | None, complaint: str
) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: {complaint}") as caught:
        read_mapping(path)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        read_mapping(tmp_path)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"methds": ["lora"]}, "unknown key 'methds'; did you mean methods?"),
        ({"learningrates": 3}, "unknown key 'learningrates'; did you mean learning_rates?"),
        ({"zzz": 1}, "unknown key 'zzz'; known: add, against, allow_overlap, allow_poor_saes, allow_self_judging, "),
        ({"seeds": "many"}, "key 'seeds': input should be a valid integer"),
        ({"seeds": 0}, "key 'seeds': input should be greater than or equal to 1"),
        ({"tokens": 1.5}, "key 'tokens': input should be a valid integer"),
        ({"steps": [0]}, "key 'steps.0': input should be greater than or equal to 1"),
        ({"steps": 5, "tokens": 9}, "keys 'tokens' and 'steps' both set the length of training; leave one out"),
        ({"steps": 5, "match": "flops"}, "key 'match': flops needs a budget in tokens; leave 'steps' out"),
        ({"keep": "some"}, "key 'keep': input should be 'best', 'all' or 'none'"),
        ({"methods": 3}, "key 'methods.0': input should be a valid string"),
        ({"seeds": 0, "tokn": 1}, "key 'seeds': .*; unknown key 'tokn'; did you mean tokens"),
    ],
)
def test_a_faulty_value_is_an_error_that_names_file_and_key(
    tmp_path: Path, values: dict[str, Any], complaint: str
) -> None:
    path = write(tmp_path / "c.yaml", **values)
    with pytest.raises(UserError, match=f"^{path}: {complaint}"):
        read_yaml(path, CompareConfig)


def test_a_file_goes_before_defaults(tmp_path: Path) -> None:
    config = read_yaml(write(tmp_path / "c.yaml", seeds=3), CompareConfig, defaults={"seeds": 1, "tokens": 9})
    assert (config.seeds, config.tokens, config.learning_rates) == (3, 9, None)


def test_what_was_read_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        CompareConfig().seeds = 3


def test_a_fault_deep_inside_is_named_with_its_place() -> None:
    values = {"name": "p", "model": "m", "saes": [{"path": "a"}, {"path": "b", "layer": -1}]}
    with pytest.raises(UserError, match=r"^here: key 'saes.1.layer': input should be greater than or equal to 0"):
        validate(Pair, values, where="here")
    with pytest.raises(UserError, match=r"^here: unknown key 'saes.0.layr'; did you mean .*layer"):
        validate(Pair, values | {"saes": [{"layr": 1}]}, where="here")


# --- pairs -------------------------------------------------------------------------------------------------------


def test_the_testbed_is_all_there() -> None:
    pair = load_pair("testbed")
    files = [Path(pair.model), pair.train, pair.contrast, *(sae.path for sae in pair.saes)]
    assert len(pair.saes) == 4
    assert all(isinstance(file, Path) and file.is_absolute() and file.exists() for file in files)
    assert (pair.name, pair.judge) == ("testbed", "testbed") and len(pair.tasks) == 6


def test_an_unknown_pair_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown pair 'testbedd'; did you mean testbed"):
        load_pair("testbedd")
    with pytest.raises(UserError, match=r"none.yaml: no such file"):
        load_pair(str(tmp_path / "none.yaml"))


def test_paths_of_a_pair_start_at_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path / "pairs" / "mine.yaml",
        model="./model",
        chat_template="../chat.jinja",
        train="train.jsonl",
        contrast="/data/contrast.jsonl",
        saes=[{"path": "../saes/a"}, {"release": "r", "id": "i"}],
        sae_sets={"narrow": [{"path": "../saes/b"}]},
        requests="requests.csv",
        planted="../planted.safetensors",
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    pair = load_pair("../pairs/mine.yaml")
    assert pair == Pair(
        name="mine",
        model=str(tmp_path / "pairs" / "model"),
        chat_template=tmp_path / "chat.jinja",
        train=tmp_path / "pairs" / "train.jsonl",
        contrast=Path("/data/contrast.jsonl"),
        saes=(SaeSource(path=tmp_path / "saes" / "a"), SaeSource(release="r", id="i")),
        sae_sets={"narrow": (SaeSource(path=tmp_path / "saes" / "b"),)},
        requests=tmp_path / "pairs" / "requests.csv",
        planted=tmp_path / "planted.safetensors",
    )
    assert (pair.sae_sources(None), pair.sae_sources("narrow")) == (pair.saes, pair.sae_sets["narrow"])
    with pytest.raises(UserError, match="unknown SAE set of pair 'mine': 'nrrow'; did you mean narrow"):
        pair.sae_sources("nrrow")
    assert hash(pair) == hash(load_pair("../pairs/mine.yaml"))  # workers keep what they load by pair


@pytest.mark.parametrize("model", ["google/gemma-2-2b", "gpt2"])
def test_a_hub_id_stays_one(tmp_path: Path, model: str) -> None:
    pair = load_pair(str(write(tmp_path / "mine.yaml", model=model, name="other")))
    assert (pair.model, pair.name) == (model, "other")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"model": "m", "rnak": 2}, "unknown key 'rnak'; did you mean rank"),
        ({}, "key 'model': field required"),
        ({"model": "m", "dtype": "float8"}, "key 'dtype': input should be 'float32', 'bfloat16' or 'float16'"),
        ({"model": "m", "rank": 0}, "key 'rank'"),
        ({"model": "m", "batch_size": 0}, "key 'batch_size'"),
        # TRL takes whole micro-batches: 16 examples in parts of 5 would train on 20 a step and count 16.
        ({"model": "m", "batch_size": 16, "micro_batch_size": 5}, ".*micro_batch_size"),
    ],
)
def test_a_faulty_pair_is_an_error(tmp_path: Path, values: dict[str, Any], complaint: str) -> None:
    path = write(tmp_path / "mine.yaml", **values)
    with pytest.raises(UserError, match=f"^{path}: {complaint}"):
        load_pair(str(path))


# --- recipes -----------------------------------------------------------------------------------------------------

SPAN = {"low": 1e-4, "high": 1e-2}
RECIPE: dict[str, Any] = {"description": "d", "parameters": "adapter", "learning_rate": SPAN}


@pytest.mark.parametrize("name", sorted(path.stem for path in paths.bundled("adapters").glob("[!_]*.yaml")))
def test_the_bundled_recipes_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # from any directory
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.description
    others = {"full": "all", "dpo-full": "all", "full-linear": "modules", "prompt": "none"}
    assert recipe.parameters == others.get(name, "adapter")
    assert (recipe.objective == "dpo") == name.startswith("dpo") and recipe.trains == (recipe.learning_rate is not None)


def test_the_bundled_recipes_have_equal_spans() -> None:
    check_equal_spans(tuple(load_recipe(path.stem) for path in paths.bundled("adapters").glob("[!_]*.yaml")))


def test_recipes_beside_the_work_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "adapters" / "mine.yaml", **RECIPE)
    assert load_recipe("mine") == load_recipe(str(path)) == Recipe(name="mine", **RECIPE)


def test_a_recipe_like_another_one_says_only_in_what_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"k": 4, "score": "t"}
    first = write(
        tmp_path / "mine.yaml", **RECIPE, source="s", init="sails", settings=settings, peft={"use_rslora": True}
    )
    other = write(tmp_path / "other.yaml", like="mine.yaml", description="else", settings={"k": 8})
    one, two = load_recipe(str(first)), load_recipe(str(other))
    assert two == one.model_copy(update={"name": "other", "description": "else", "settings": {"k": 8, "score": "t"}})
    narrow = load_recipe("sails-narrow")
    assert narrow.settings == {**load_recipe("sails").settings, "saes": "narrow"} and narrow.source
    third = write(tmp_path / "third.yaml", like="other.yaml")
    with pytest.raises(
        UserError, match=r"third.yaml: key 'like': other.yaml itself has the key 'like'; name the recipe"
    ):
        load_recipe(str(third))
    with pytest.raises(UserError, match="unknown method 'sials'; did you mean sails"):
        load_recipe(str(write(tmp_path / "fourth.yaml", like="sials")))


def test_the_defaults_are_a_file_beside_the_recipes_and_no_recipe() -> None:
    assert CompareConfig().methods == ("sails", "lora", "full") == defaults().methods
    assert defaults().compared == "sails"
    assert "_default" not in {path.stem for path in recipe_files()}
    with pytest.raises(UserError, match="unknown method '_default'"):
        load_recipe("_default")


def test_an_unknown_method_is_answered_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "adapters" / "mine.yaml", **RECIPE)
    with pytest.raises(UserError, match="unknown method 'sail'; did you mean sails"):
        load_recipe("sail")
    with pytest.raises(UserError, match=r"unknown method 'xyz'; known: .*full, .*mine"):
        load_recipe("xyz")
    with pytest.raises(UserError, match=r"other.yaml: no such file"):
        load_recipe("adapters/other.yaml")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"peft": {"r": 64}}, "key 'peft': r cannot be set here"),
        ({"peft": {"lora_alpha": 1}}, "key 'peft': lora_alpha cannot be set here"),
        ({"peft": {"target_modules": ["q_proj"]}}, "key 'peft': target_modules cannot be set here"),
        ({"peft": {"rank_pattern": {"q_proj": 2}}}, "key 'peft': rank_pattern cannot be set here"),
        ({"peft": {"r": 1, "alpha_pattern": {"q": 2}}}, "key 'peft': alpha_pattern, r cannot be set here"),
        ({"learning_rate": {"low": 1e-2, "high": 1e-4}}, "key 'learning_rate': high is below low"),
        ({"learning_rate": {"low": 0, "high": 1}}, "key 'learning_rate.low': input should be greater than 0"),
        ({"learning_rate": 1e-3}, "key 'learning_rate': "),
        ({"learning_rate": SPAN | {"mid": 1}}, "unknown key 'learning_rate.mid'"),
        ({"parameters": "some"}, "key 'parameters': input should be 'adapter', 'modules', 'all' or 'none'"),
        ({"settings": {"gains": "ignored"}}, "key 'settings' needs key 'init'"),
        ({"parameters": "modules", "init": "sails"}, "key 'init': only for 'parameters: adapter', but .* is modules"),
        ({"trainer": "dpo"}, "unknown key 'trainer'; "),
    ],
)
def test_a_faulty_recipe_is_an_error(tmp_path: Path, values: dict[str, Any], complaint: str) -> None:
    path = write(tmp_path / "mine.yaml", **RECIPE | values)
    with pytest.raises(UserError, match=f"^{path}: {complaint}"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "peft",
    [
        {"modules_to_save": ["lm_head"]},  # trains a whole matrix more
        {"layers_to_transform": [0]},  # leaves target modules out
        {"exclude_modules": ["o_proj"]},
        {"bias": "all"},
    ],
)
def test_a_recipe_that_trains_other_modules_is_refused(tmp_path: Path, peft: dict[str, Any]) -> None:
    path = write(tmp_path / "mine.yaml", **RECIPE, peft=peft)
    with pytest.raises(UserError, match=f"key 'peft': {next(iter(peft))}"):
        load_recipe(str(path))


def test_a_recipe_with_a_field_that_peft_does_not_know_is_an_error(tmp_path: Path) -> None:
    recipe = load_recipe(str(write(tmp_path / "mine.yaml", **RECIPE, peft={"use_rsloar": True})))
    with pytest.raises(UserError, match=r"recipe 'mine': 'use_rsloar'; did you mean use_rslora"):
        adapter_config(load_pair("testbed"), recipe)


@pytest.mark.parametrize("high", [5e-3, 2e-2])
def test_recipes_of_unlike_spans_are_refused(high: float) -> None:
    alike = Recipe(name="a", **RECIPE)
    shifted = Recipe(name="b", **RECIPE | {"learning_rate": {"low": 3e-6, "high": 3e-4}})
    check_equal_spans((alike, shifted))  # elsewhere, but as wide
    wide = Recipe(name="c", **RECIPE | {"learning_rate": Span(low=1e-4, high=high)})
    with pytest.raises(
        UserError, match=rf"recipe 'c': key 'learning_rate' spans a factor of {high / 1e-4:g}, that of 'a' 100"
    ):
        check_equal_spans((alike, shifted, wide))


# --- one or several ----------------------------------------------------------------------------------------------


def test_organisms_are_so_many_of_the_testbed() -> None:
    assert CompareConfig(organisms=4).pairs == ("testbed", "testbed-b", "testbed-c", "testbed-d")
    assert CompareConfig(organisms=1).pairs == ("testbed",)
    with pytest.raises(ValidationError):
        CompareConfig(organisms=27)
    others: tuple[dict[str, Any], ...] = ({"model": "m"}, {"pair": "testbed-b"})
    for other in others:
        with pytest.raises(ValidationError, match="key 'organisms' works with the testbed only"):
            CompareConfig(organisms=3, **other)


def test_pairs_and_budgets_are_one_or_several(tmp_path: Path) -> None:
    one = read_yaml(write(tmp_path / "one.yaml", pair="a", examples=16), CompareConfig)
    assert (one.pairs, one.examples) == (("a",), (16,))
    for pair in ("a, b", ["a", "b"]):
        several = read_yaml(write(tmp_path / "several.yaml", pair=pair, examples=[16, 64]), CompareConfig)
        assert (several.pairs, several.examples) == (("a", "b"), (16, 64))
    assert (CompareConfig().pairs, CompareConfig().examples) == (("testbed",), ())
    assert CompareConfig(model="m").pairs == ()
