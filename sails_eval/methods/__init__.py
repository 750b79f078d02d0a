"""Initialisations that a recipe can name, one module each: `init: sails` is the class in `sails_eval.methods.sails`.

A new one needs no registration here; a package of the user's own names its class as an entry point (`core.plugins`).
"""

import importlib
import pkgutil
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.plugins import faults_told, load_plugin, plugins
from sails_eval.core.recipe import Recipe
from sails_eval.core.schema import validate
from sails_eval.methods.base import Flops, FromBasis, FromContrast, Initialisation, Material, Need, adapted_modules

__all__ = [
    "Flops", "FromBasis", "FromContrast", "Initialisation", "Material", "Need", "adapted_modules",
    "initialisation_class", "initialisations", "load_initialisation", "source_files",
]  # fmt: skip


def load_initialisation(recipe: Recipe) -> Initialisation:
    """How a recipe's adapters start. Raises UserError where there is no such start or its settings are faulty."""
    kind = initialisation_class(recipe.init) if recipe.init else Initialisation
    with nullcontext() if kind.__module__.startswith(__name__) else faults_told(f"initialisation '{recipe.init}'"):
        return kind(validate(kind.Settings, recipe.settings, where=f"recipe '{recipe.name}', settings"))


def initialisations(recipes: Iterable[Recipe]) -> list[Initialisation]:
    """Those that recipes name; of recipes that name none, nothing."""
    return [load_initialisation(recipe) for recipe in recipes if recipe.init]


def initialisation_class(name: str) -> type[Initialisation]:
    """What `init: NAME` names, without torch. Raises UserError where that is nothing."""
    shipped = {module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg} - {"base"}
    if name in shipped:
        module = importlib.import_module(f"{__name__}.{name}")
        classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        (found,) = (one for one in classes if issubclass(one, Initialisation))
        return found
    offered = plugins("methods")
    if name not in offered:
        raise unknown("initialisation", name, shipped | offered.keys())
    found = load_plugin(offered[name])
    if not (isinstance(found, type) and issubclass(found, Initialisation)):
        raise UserError(f"sails_eval.methods: '{offered[name].value}' is no subclass of Initialisation")
    return found


def source_files(name: str) -> list[Path]:
    """The code of an initialisation: all of this package and, of one of the user's own, the folder of the package that
    its module is in, or the module that is in none. Raises UserError where there is no such initialisation."""
    kind, shipped = initialisation_class(name), sorted(Path(__file__).parent.rglob("*.py"))
    if kind.__module__.startswith(f"{__name__}."):
        return shipped
    named = importlib.import_module(plugins("methods")[name].module)
    file = Path(str(named.__file__))
    return [*shipped, *(sorted(file.parent.rglob("*.py")) if named.__package__ else [file])]
