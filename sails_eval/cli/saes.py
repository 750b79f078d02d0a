"""The command `sails-eval saes`."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group, read_config
from sails_eval.cli.flags import add_model, numbers
from sails_eval.core.tables import Table, add_table_flags, print_table

TEXTS = (
    "texts to train on: training data (whose dialogues are read in the chat template), rows with a field text, or a "
    "text file of paragraphs (.txt, .md); a file, hf:ORG/NAME[/CONFIG][@REVISION][#SPLIT], or a YAML file as for "
    "--train (default: the pair's training data)"
)
OUT = "folder for the SAEs; a training that was stopped there is resumed (default: a folder in $SAILS_EVAL_CACHE, "
OUT += "else ~/.cache/sails-eval, named after the pair)"


def add(commands: Any) -> None:
    actions = add_group(commands, "saes", "Train sparse autoencoders (SAEs) for a model that has none.")
    text = (
        "Train SAEs of the residual stream after several layers of a model, in one pass over the texts, with SAELens "
    )
    text += "(BatchTopK, saved as JumpReLU)."
    train = add_command(actions, "train", _train, text)
    add_model(train)
    sizes = train.add_argument_group("SAEs and their training")
    settings: list[tuple[str, Any, str]] = [
        ("--layers", numbers, "layers whose output to train SAEs of (default: four at equal distances)"),
        ("--features", int, "features of each SAE (default: 4096)"),
        ("--l0", int, "features that are active at a token, on average (default: 36)"),
        ("--tokens", int, "tokens of text to train on (default: 400000)"),
        ("--passes", int, "times to train on each token's activations (default: 2)"),
        ("--batch-size", int, "tokens per optimiser step (default: 1024)"),
        ("--learning-rate", float, "learning rate of Adam (default: 0.003)"),
        ("--context", int, "maximum tokens of a text; longer ones are split (default: 512, or the model's)"),
        ("--seed", int, "seed of the start and of all orders (default: 0)"),
    ]
    sizes.add_argument("--texts", metavar="DATA", help=TEXTS)
    for name, kind, told in settings:
        metavar = "A,B" if kind is numbers else "X" if kind is float else "N"
        sizes.add_argument(name, dest=f"sae_{name[2:].replace('-', '_')}", type=kind, metavar=metavar, help=told)
    train.add_argument("--out", dest="sae_out", type=Path, metavar="DIR", help=OUT)
    add_table_flags(train)


def _train(options: argparse.Namespace) -> None:
    from sails_eval.core.data_source import as_data
    from sails_eval.core.device import used
    from sails_eval.core.errors import UserError
    from sails_eval.core.paths import made
    from sails_eval.core.progress import say
    from sails_eval.core.schema import validate
    from sails_eval.methods.subspace.sae_folder import saes_yaml, train_for, usual_settings
    from sails_eval.methods.subspace.sae_training import SaeSettings
    from sails_eval.plan.resolve import resolve_pair
    from sails_eval.run.workers import quiet_libraries

    if not (options.pair or options.model or options.config):
        raise UserError("saes train: no model; give --pair NAME or --model MODEL")
    config = read_config(options)
    with used(config.device):
        pair = resolve_pair(config)
        texts = as_data(options.texts) if options.texts else pair.train
        if texts is None:
            raise UserError(f"pair '{pair.name}' has no training data to train SAEs on; give --texts DATA")
        given = {key[4:]: value for key, value in vars(options).items() if key.startswith("sae_") and value is not None}
        folder = (given.pop("out", None) or made() / "saes" / pair.name).resolve()
        values = {**usual_settings(pair), **given}
        settings = validate(SaeSettings, values, where="command line", flags=given)
        quiet_libraries()
        record = train_for(pair, texts, settings, folder=folder, quiet=options.quiet)
    rows = [
        [str(layer), f"{one.explained:.3f}", f"{one.l0:.1f}", f"{one.dead:.1%}", "" if one.good else "poor"]
        for layer, one in record.layers.items()
    ]
    records = [{"layer": layer, **one.model_dump()} for layer, one in record.layers.items()]
    print_table(options, Table([["layer", "variance explained", "L0", "dead", ""], *rows], records, "rrrrl"))
    say(f"in {folder}; in a pair's YAML:\n" + "\n".join(saes_yaml(record, folder)), quiet=options.quiet)
