"""From what the user asked for to a checked list of cells: nothing here trains, loads a model, or takes long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sails_eval import __version__
from sails_eval.alike import Match
from sails_eval.calibration import note_on
from sails_eval.config import (
    DATA,
    CompareConfig,
    Pair,
    Recipe,
    SaeSource,
    check_equal_spans,
    load_pair,
    load_recipe,
)
from sails_eval.contrasts import check_contrasts
from sails_eval.data import pinned, read_contrast, read_examples, read_requests, starting_at
from sails_eval.engines import HF, engine_identity, resolve_engine
from sails_eval.errors import UserError
from sails_eval.fingerprint import commit_of, digest, environment, model_identity, of_path
from sails_eval.finished import Finished, prompted, reference
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge, JudgedKind, check_reads
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.judges.spec import trusting
from sails_eval.paths import PACKAGE
from sails_eval.records import BASE
from sails_eval.responsible import check_sending
from sails_eval.schema import as_name
from sails_eval.tasks import TaskInfo, resolve_tasks
from sails_eval.tasks.published import use_local

if TYPE_CHECKING:
    from sails_eval.matching import Price

QUICK = {"seeds": 2, "learning_rates": 2}

INITIALISATION = ("activations", "alignment", "basis", "contrast", "output_effects", "saes")
"""The modules that initialisations share."""

INITIAL = ("saes", "contrast", "requests", "planted", "sae_sets", "references")
"""What of a training's identity only initialisations look at; of `sae_sets` and `references` each at those it names."""


@dataclass(frozen=True)
class Cell:
    """One training run: recipe × learning rate × seed; the fingerprint covers all that determines it.

    `tokens` is its budget where that is not the pair's, `checkpoints` at how many steps it is judged on validation.
    """

    recipe: Recipe
    learning_rate: float
    seed: int
    fingerprint: str
    tokens: int | None = None
    checkpoints: int = 1

    @property
    def folder(self) -> str:
        return f"cells/{self.recipe.name}/rate-{self.learning_rate:g}-seed-{self.seed}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class Setup:
    """A comparison, checked: `pair` has the flags folded in, `identity` holds a hash of all that determines results.

    `recipes` are those that train; `finished` the rows, besides the base model, that nothing is trained for.

    `contrasts` are the differences that are tested, as pairs of rows; None where none were declared. `calibration` says
    how far the judge agrees with people, as far as that is known.

    `match` is what all cells get the same amount of; where that is not tokens, `prices` and `tokens` have what each
    method takes of it, and how many tokens its cells get for that (`matching.py`). `notes` by method are for the board.
    """

    pair: Pair
    tasks: tuple[TaskInfo, ...]
    identity: dict[str, Any]
    recipes: tuple[Recipe, ...] = ()
    engine: str = HF
    limit: int | None = None
    seeds: int = 0
    learning_rates: int = 0
    checkpoints: int = 1
    contrasts: tuple[tuple[str, str], ...] | None = None
    calibration: str = ""
    allow_overlap: bool = False
    finished: tuple[Finished, ...] = ()
    match: Match = "tokens"
    match_params: bool = False
    prices: Mapping[str, Price] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return digest(self.identity)

    @property
    def judge(self) -> str:
        assert self.pair.judge is not None  # resolve() saw to it
        return self.pair.judge

    @property
    def trials(self) -> int:
        """How many models of each seed a method may choose from."""
        return self.learning_rates * self.checkpoints

    @property
    def validation_tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(task for task in self.tasks if task.has_validation)

    def tokens_of(self, recipe: Recipe) -> int:
        """The tokens that a recipe's cells are trained on, up to the end of the last step."""
        return self.tokens.get(recipe.name, self.pair.tokens)

    def rates(self, recipe: Recipe) -> list[float]:
        """The recipe's learning rates for this pair: log-spaced over its span, to three significant digits."""
        scale, n = self.pair.rate_scale(recipe.objective), self.learning_rates
        low, high = scale * recipe.span.low, scale * recipe.span.high
        if n == 1:
            return [float(f"{(low * high) ** 0.5:.3g}")]
        return [float(f"{low * (high / low) ** (i / (n - 1)):.3g}") for i in range(n)]

    def cells(self, recipe: Recipe) -> list[Cell]:
        """Every learning rate with every seed."""
        same = self.identity["recipes"][recipe.name]
        several = [self.checkpoints] if self.checkpoints > 1 else []
        tokens = self.tokens.get(recipe.name)
        return [
            Cell(recipe, rate, seed, digest([same, rate, seed, *several]), tokens, self.checkpoints)
            for rate in self.rates(recipe)
            for seed in range(self.seeds)
        ]

    def all_cells(self) -> list[Cell]:
        """Every cell of every method."""
        return [cell for recipe in self.recipes for cell in self.cells(recipe)]


def resolve_pair(config: CompareConfig) -> Pair:
    """The named pair, or one made of --model and its companions, with every flag folded in."""
    if config.pair is not None and config.model is not None:
        raise UserError("say which model: either --pair NAME or --model MODEL, and not both")
    for flag, given in (("--pair", config.pairs), ("--examples", config.examples)):
        if len(given) > 1:
            raise UserError(f"{flag}: only compare takes several ({', '.join(map(str, given))})")
    if config.pairs:
        pair = load_pair(config.pairs[0])
    else:
        assert config.model is not None
        pair = Pair(name=as_name(Path(config.model).resolve().name), model=config.model)
    flags: dict[str, Any] = {
        key: value
        for key in ("train", "contrast", "judge", "tokens", "tasks", "chat_template", "regularise")
        if (value := getattr(config, key)) is not None
    }
    if config.sae:
        flags["saes"] = tuple(SaeSource(path=path.resolve()) for path in config.sae)
    if config.examples:
        (flags["examples"],) = config.examples
    for key in ("train", "contrast", "chat_template"):
        if key in flags:
            flags[key] = starting_at(Path.cwd(), flags[key])
    return pair.model_copy(update=flags)


def resolve(config: CompareConfig) -> Setup:
    """Check a comparison of one pair at one budget against the files it names.

    Raises UserError for the first thing that cannot work.
    """
    recipes, prompts = load_methods(config)
    check_equal_spans(recipes)
    setup = resolve_evaluation(config)
    setup = replace(setup, pair=with_pinned_data(setup.pair))
    finished = _finished(config, setup, prompts)
    names = [recipe.name for recipe in recipes] + [row.name for row in finished]
    if len({*names, BASE}) <= len(names):
        twice = next(name for name in (BASE, *names) if (BASE, *names).count(name) > 1)
        raise UserError(f"--reference: two rows would be called '{twice}'; name one in the pair's key 'references'")
    training = training_identity(setup.pair, recipes)
    seeds, rates = sizes(config)
    if rates > 1 or config.checkpoints > 1:
        chosen = "learning rates" if config.checkpoints == 1 else "learning rates and checkpoints"
        _check_kinds(setup.validation_tasks, f"with a validation split, on which {chosen} are chosen")
    identity = {
        **setup.identity,
        "training": training,
        "recipes": {recipe.name: recipe_identity(recipe, training) for recipe in recipes},
        "seeds": seeds,
    }
    if config.match != "tokens":
        identity["match"] = config.match
    if config.match_params:
        identity["match_params"] = True
    if config.checkpoints > 1:
        identity["checkpoints"] = config.checkpoints
    contrasts = None if config.contrasts is None else _contrasts(config.contrasts, [BASE, *names])
    if contrasts is not None:
        identity["contrasts"] = [list(pair) for pair in contrasts]
    if finished:
        identity["finished"] = {row.name: row.identity for row in finished}
    setup = replace(
        setup,
        recipes=recipes,
        seeds=seeds,
        learning_rates=rates,
        checkpoints=config.checkpoints,
        identity=identity,
        contrasts=contrasts,
        finished=finished,
        match=config.match,
        match_params=config.match_params,
    )
    identity["learning_rates"] = {recipe.name: setup.rates(recipe) for recipe in recipes}
    return setup


def load_methods(config: CompareConfig) -> tuple[tuple[Recipe, ...], tuple[Recipe, ...]]:
    """The recipes that train, and those that don't."""
    methods = tuple(load_recipe(name) for name in config.methods)
    recipes = tuple(recipe for recipe in methods if recipe.trains)
    names = [recipe.name for recipe in methods]
    if not recipes or len(set(names)) < len(names) or BASE in names:
        raise UserError("--methods: name at least one method that trains, each once ('base' is always a row)")
    return recipes, tuple(recipe for recipe in methods if not recipe.trains)


def sizes(config: CompareConfig) -> tuple[int, int]:
    """How many seeds and how many learning rates."""
    if config.quick and config.model_fields_set & QUICK.keys():
        raise UserError("--quick sets --seeds and --learning-rates itself; leave it out or leave them out")
    return (QUICK["seeds"], QUICK["learning_rates"]) if config.quick else (config.seeds, config.learning_rates)


def _finished(config: CompareConfig, setup: Setup, prompts: Sequence[Recipe]) -> tuple[Finished, ...]:
    """The rows that nothing is trained for. Raises UserError where one can't be had, or is the judge itself."""
    references = [reference(asked, setup.pair, setup.engine) for asked in config.reference]
    for row in references:
        if not config.allow_self_judging:
            check_not_itself(setup.judge, row.pair.model)
        if row.chats:
            check_sending(setup.tasks, row.model, config.send_to)
    return (*(prompted(recipe, setup.pair, setup.engine) for recipe in prompts), *references)


def recipe_identity(recipe: Recipe, training: dict[str, Any]) -> str:
    """A hash of all that a recipe's cells depend on besides rate and seed, and of nothing that other recipes need.

    SAEs, contrast data and the source of the initialisation are in it where the recipe has one; the rest of the code is
    known by the package's version.
    """
    data = {key: value for key, value in training.items() if recipe.init or key not in INITIAL}
    for key in ("sae_sets", "references"):
        data.pop(key, None)
    told = recipe.model_dump(mode="json", exclude={"description", "source", "learning_rate", "system_prompt"})
    later = {"objective", "dpo"} if recipe.objective == "sft" else set()
    later |= {"peft_type", "rank_factor", "lr_ratio"} - recipe.model_dump(exclude_defaults=True).keys()
    told = {key: value for key, value in told.items() if key not in later}  # hashes of cells made before them hold
    code = []
    if recipe.init:
        if named := recipe.settings.get("saes"):
            data["sae_sets"] = {named: training["sae_sets"][named]}
        if "aligned" in recipe.settings:
            data["references"] = training["references"]
        files = [PACKAGE / "methods" / f"{recipe.init}.py", *(PACKAGE / f"{name}.py" for name in INITIALISATION)]
        code = [of_path(file) for file in files if file.is_file()]
    return digest([data, told, code])


def _contrasts(given: tuple[str, ...], rows: list[str]) -> tuple[tuple[str, str], ...]:
    """`a:b` as pairs of rows. Raises UserError unless each names two rows of the board, once."""
    found = [tuple(contrast.split(":")) for contrast in given]
    for contrast, names in zip(given, found, strict=True):
        if len(names) != 2:
            raise UserError(f"contrasts: '{contrast}' is not of the form A:B with two rows of the board")
    pairs = tuple((names[0], names[-1]) for names in found)
    check_contrasts(pairs, rows)
    return pairs


def resolve_evaluation(config: CompareConfig, *, target: str | None = None) -> Setup:
    """The part of `resolve` that needs no training: pair, tasks and judge.

    `target` is the model that is evaluated, where that is not the pair's.
    """
    use_local(config.task_data)
    pair = resolve_pair(config)
    if pair.judge is None:
        raise UserError(
            "no judge; give --judge rules, hf:MODEL, openai:MODEL or zoo:NAME, or several between commas (only a pair "
            "can name a default)"
        )
    judge = trusting(pair.judge) if config.trust_remote_code else pair.judge
    if not pair.tasks:
        raise UserError("no tasks; give --tasks NAME,NAME (see: sails-eval tasks list)")
    tasks = tuple(resolve_tasks(pair.tasks, config.include_path))
    _check_kinds(tasks, "of unseen categories")
    check_sending(tasks, judge, config.send_to)
    engine = resolve_engine(config.engine)
    loaded = _resolve_judge(judge, None if config.allow_self_judging else target or pair.model)
    pair = pair.model_copy(update={"judge": judge, "revision": commit_of(pair.model, pair.revision)})
    identity = {
        "model": model_identity(pair),
        "tasks": {task.name: task.fingerprint for task in tasks},
        "limit": config.limit,
        "engine": engine_identity(engine, pair),
        "judge": loaded.fingerprint,
        "version": __version__,
        "environment": environment(),
    }
    calibration = note_on(loaded, config.calibration)
    return Setup(
        pair,
        tasks,
        identity,
        engine=engine,
        limit=config.limit,
        calibration=calibration,
        allow_overlap=config.allow_overlap,
    )


def _resolve_judge(spec: str, model: str | None) -> Judge:
    """The judge of a comparison. Raises UserError where it is `model` or cannot read both kinds of answers."""
    judge = load_judge(spec)
    for kind in get_args(JudgedKind):
        check_reads(judge, kind)
    if model is not None:
        check_not_itself(spec, model)
    return judge


def with_pinned_data(pair: Pair) -> Pair:
    """The same pair, whose data on the hub is that of today's commits. Raises UserError where it cannot be had."""
    return pair.model_copy(update={key: pinned(getattr(pair, key)) for key in DATA})


def training_identity(pair: Pair, recipes: tuple[Recipe, ...]) -> dict[str, Any]:
    """What a cell depends on besides recipe, rate and seed. Raises UserError where the data cannot be read."""
    if pair.train is None:
        raise UserError("no training data; give --train FILE or a pair that names some")
    data: dict[str, Any] = {"train": read_examples(pair.train).sha256}
    if any(recipe.init for recipe in recipes):
        data |= _initialisation_identity(pair, {recipe.settings.get("saes") for recipe in recipes})
    if any("aligned" in recipe.settings for recipe in recipes):
        models = {name: Path(model) for name, model in pair.references.items()}
        data["references"] = {name: of_path(m) if m.is_dir() else str(m) for name, m in models.items()}
    settings = {
        "rank", "alpha", "target_modules", "tokens", "examples", "max_length",
        "batch_size", "micro_batch_size", "gradient_checkpointing",
    }  # fmt: skip
    alike = {key for key in ("optimiser", "regularise") if getattr(pair, key) != Pair.model_fields[key].default}
    return {
        "model": model_identity(pair),
        "saes": _sae_identity(pair.saes),
        **data,
        **pair.model_dump(mode="json", include=settings | alike),
    }


def _initialisation_identity(pair: Pair, sae_sets: set[str | None]) -> dict[str, Any]:
    """What initialisations may look at besides the model and the pair's own SAEs, as far as the pair has it."""
    data: dict[str, Any] = {}
    if pair.contrast is not None:
        data["contrast"] = read_contrast(pair.contrast).sha256
    if pair.requests is not None:
        data["requests"] = read_requests(pair.requests).sha256
    if pair.planted is not None:
        if not pair.planted.is_file():
            raise UserError(f"{pair.planted}: no such file; see key 'planted' of pair '{pair.name}'")
        data["planted"] = of_path(pair.planted)
    if further := sorted(name for name in sae_sets if name is not None):
        data["sae_sets"] = {name: _sae_identity(pair.sae_sources(name)) for name in further}
    return data


def _sae_identity(saes: tuple[SaeSource, ...]) -> list[list[Any]]:
    return [[of_path(s.path) if s.path and s.path.is_dir() else s.name, s.layer] for s in saes]


def _check_kinds(tasks: tuple[TaskInfo, ...], which: str) -> None:
    """The headline needs harmful and safe tasks."""
    for kind in ("harmful", "safe"):
        if not any(task.kind == kind and not task.seen_in_training for task in tasks):
            raise UserError(f"--tasks has no {kind} task {which}; the alignment score needs one")
