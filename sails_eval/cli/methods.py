"""The commands of methods: list, show, new."""

import argparse
import json
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.tables import Table, add_table_flags, print_table


def add(commands: Any) -> None:
    actions = add_group(commands, "methods", "List, show or create methods, each described by a recipe (YAML).")
    listing = add_command(actions, "list", _list, "List the bundled methods and those in ./adapters.")
    text = "Print a method's recipe, the number of parameters it trains, and the data it needs before training."
    show = add_command(actions, "show", _show, text)
    show.add_argument("name", metavar="NAME", help="method's name or recipe file (YAML)")
    for action in (listing, show):
        text = "pair for which parameters are counted: its name or YAML file (default: testbed)"
        action.add_argument("--pair", default="testbed", metavar="NAME", help=text)
    add_table_flags(listing)
    new = add_command(actions, "new", _new, "Create a recipe that inherits from another one.")
    new.add_argument("name", metavar="NAME", help="name of the new method")
    new.add_argument("--like", default="lora", metavar="METHOD", help="method to inherit from (default: lora)")
    text = "folder to write the recipe into (default: ./adapters)"
    new.add_argument("--dir", type=Path, default=Path("adapters"), metavar="DIR", help=text)


def _list(options: argparse.Namespace) -> None:
    from sails_eval.core.remembered import remembered
    from sails_eval.models.architectures import load_whole_pair
    from sails_eval.plan.catalog.methods import listing
    from sails_eval.plan.keys import methods_key

    pair = load_whole_pair(options.pair)

    def make() -> str:
        from sails_eval.run.workers import quiet_libraries

        quiet_libraries()
        return json.dumps(vars(listing(pair)))

    key = methods_key(pair)  # counting parameters takes torch, and says the same every time
    table = Table(**json.loads(make() if key is None else remembered("methods", key, make)))
    legend = f"trained: parameters trained on pair '{options.pair}' (--pair); rejected: uses rejected answers"
    print_table(options, table, below=[legend])


def _show(options: argparse.Namespace) -> None:
    from sails_eval.core.recipe import load_recipe
    from sails_eval.models.architectures import load_whole_pair
    from sails_eval.plan.catalog.methods import shown
    from sails_eval.run.workers import quiet_libraries

    recipe, pair = load_recipe(options.name), load_whole_pair(options.pair)
    quiet_libraries()
    print(shown(recipe, pair))


def _new(options: argparse.Namespace) -> None:
    from sails_eval.plan.catalog.methods import new_recipe

    made = new_recipe(options.name, options.like, options.dir)
    named = options.name if options.dir == Path("adapters") else made
    print(f"made {made}; edit it, then: sails-eval compare --methods {named},lora --pair testbed --quick")
