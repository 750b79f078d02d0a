"""What `sails-eval plan` prints of a forecast."""

from collections.abc import Sequence

from sails_eval.core.pair import Pair
from sails_eval.core.tables import fitted, wrapped
from sails_eval.models.architectures import targets_in_words
from sails_eval.models.hub import PLAIN, lacks_access, template_of
from sails_eval.plan.cost.forecast import ANSWER_TOKENS, SLOW_WITHOUT_GPU, Forecast, size_text, tokens_a_cell
from sails_eval.plan.cost.hours import in_words


def render(made: Forecast) -> str:
    """A forecast as a person reads it."""
    pair, methods = made.pair, len(made.recipes)
    where = f" ({made.shape.source})" if made.shape else ""
    lines = [
        f"{pair.name}: {pair.model}{where}",
        f"  cells       {methods} method{'s' * (methods > 1)} × {_of_method(made)} = {methods * made.cells}",
        f"  a cell      {_length(made)}",
        f"  labels      {_labels(pair)}",
        f"  model       {_model(made)}",
        f"  adapters    rank {pair.rank} on {targets_in_words(pair)}",
    ]
    if made.budgets > 1:
        lines += [f"  budgets     {made.budgets}; the numbers here are for the largest one"]
    if made.checkpoints > 1:
        trials = made.rates * made.checkpoints
        lines += [f"  trials      {made.rates} rates × {made.checkpoints} checkpoints = {trials} per method and seed"]
    if made.match != "tokens":
        measured = " (known once the speed of each is measured)" if made.match == "seconds" else ""
        lines += [f"  matched     {made.match}: more expensive methods get fewer tokens{measured}"]
    if made.costs:
        of_each = {recipe.name: made.tokens.get(recipe.name, tokens_a_cell(pair)) for recipe in made.recipes}
        flops = sum(made.flops_per_token(name) * n for name, n in of_each.items()) * made.cells
        padding = "with" if made.cell_costs else "without"
        lines += ["", *_methods(made), "", f"  training    {flops:.2e} FLOPs for all cells, {padding} padding"]
        if next(iter(made.costs.values())).total >= SLOW_WITHOUT_GPU:
            tokens = pair.max_new_tokens or ANSWER_TOKENS
            answers = 0 if made.prompts.unknown else made.answers[1]
            size = {"answers": answers, "tokens": tokens, "at_a_time": pair.eval_batch_size or 1}
            lines += [f"  hours       {in_words(made.machine.device, flops=flops, **size)}"]
        lines += ["", *_memory(made)]
    lines += ["", _judging(made)]
    if made.costs:
        all_cells, kept = made.disk
        lines += [
            f"  disk        {size_text(all_cells)} of checkpoints until learning rates are chosen, "
            f"{size_text(kept)} kept; {size_text(made.machine.disk)} free"
        ]
    lines += ["", "  missing:" if made.problems else "  nothing is missing"]
    lines += [f"  - {one.told}{'' if one.stops else ' (does not stop the run)'}" for one in made.problems]
    return "\n".join(wrapped(line, indent=14) for line in lines)


def _length(made: Forecast) -> str:
    """How long a cell is trained."""
    pair = made.pair
    steps = "number of steps unknown without the training data" if made.steps is None else f"about {made.steps} steps"
    if pair.steps is None:
        return f"{pair.tokens:,} tokens in batches of {pair.batch_size}, {steps}"
    return f"about {tokens_a_cell(pair):,} tokens in batches of {pair.batch_size}, {pair.steps} steps"


def _model(made: Forecast) -> str:
    """How the model is run and asked."""
    pair, lack = made.pair, None
    if pair.chat_template is None:
        lack = lacks_access(pair.model, pair.revision, known_gated=pair.gated)
    template = None if lack else template_of(pair)
    asked = template.name if template else "not known yet" if lack else "the tokenizer's own"
    told = [pair.dtype, *([pair.attn_implementation] if pair.attn_implementation else [])]
    told += [f"chat template: {asked}{' (the tokenizer has none)' if template == PLAIN else ''}"]
    if made.costs:
        told += [pair.batches]
    return ", ".join(told)


def _of_method(made: Forecast) -> str:
    """The cells of one method."""
    if not made.tuned_on:
        return f"{made.rates} rates × {made.seeds} seeds"
    return f"({made.rates} rates × {made.tuned_on} tuning seeds + {made.seeds} seeds)"


def _labels(pair: Pair) -> str:
    """The labelled examples that a cell sees."""
    drawn = f"{pair.examples:,} examples per seed" if pair.examples else "as many examples as fit into the token budget"
    if pair.contrast_examples == "sample":
        return f"{drawn}; methods that contrast examples use the same ones"
    n = "all" if pair.contrast_examples == "all" else f"{pair.contrast_examples:,} examples"
    return f"{drawn}; methods that contrast examples also see {n} of the contrast data"


def _methods(made: Forecast) -> list[str]:
    rows = [
        ("method", "trained parameters", "share", "GFLOPs per token", *(["tokens per cell"] if made.tokens else []))
    ]
    for recipe in made.recipes:
        cost = made.costs[recipe.name]
        row = (recipe.name, f"{cost.trained:,}", f"{100 * cost.share:.3f} %")
        flops = f"{made.flops_per_token(recipe.name) / 1e9:.3g}"
        rows.append((*row, flops, *([f"{made.tokens[recipe.name]:,}"] if made.tokens else [])))
    return _indented(rows)


def _memory(made: Forecast) -> list[str]:
    parts = ("weights", "gradients", "optimiser", "activations", "kv_cache", "workspace", "peak")
    rows = [("memory", *(part.replace("kv_cache", "KV") for part in parts))]
    rows += [(stage, *(size_text(getattr(memory, part)) for part in parts)) for stage, memory in made.stages.items()]
    return [*_indented(rows), f"  {made.machine.device} has {size_text(made.machine.memory)}"]


def _judging(made: Forecast) -> str:
    least, most = made.calls
    cost = made.judge_cost(most)
    told = f"{made.prompts.validation} validation and {made.prompts.test} test prompts"
    if cost is None:
        told += "; cost unknown: give the judge's options price_in and price_out"
    else:
        told += f", at most {cost:.2f} USD" if cost else ", at no cost"
    unknown = made.prompts.unknown
    counted = f"{'at least ' if unknown else ''}{least:,} to {most:,} verdicts ({told})" if most else "verdicts unknown"
    line = f"  judge       {made.pair.judge or 'none'}: {counted}"
    if unknown:
        line += f"; not counted, since their data are not here: {', '.join(unknown)}"
    return line


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"  {line}" for line in fitted(rows, "lr", ("KV", "workspace", "gradients", "optimiser"), margin=2)]
