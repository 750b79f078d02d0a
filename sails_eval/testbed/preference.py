"""The testbed's preference-trained references: finished models, as RLHF-trained ones are of real base models.

Each is an adapter by the recipe `dpo`, trained on all pairs of the training data instead of a comparison's few, and on
the cross-entropy of chosen answers, too: without it these models, which never refuse, learn to say nothing of use. With
half of the rate or of the tokens `testbed-c` goes along with more than a third of the harmful requests, as the card of
`sails-eval testbed info` has it; with these with a quarter, and `testbed` with none.
"""

from pathlib import Path

from sails_eval.core.files import read_json, write_json
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import Dpo, load_recipe
from sails_eval.data.reading import read_examples
from sails_eval.models.base import load_base
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.run.workers import quiet_libraries
from sails_eval.training.batches import CellRun, encode_examples, lay_out
from sails_eval.training.cell import train_cell

FOLDER = "preference"
TOKENS = 120_000
LEARNING_RATE = 7.2e-3
SETTINGS = Dpo(sft_weight=5)


def build_reference(base: Path, train: Path, folder: Path) -> None:
    """Train the reference of the model in `base` on the pairs in `train`, and save its adapter into `folder`."""
    quiet_libraries()
    settings = {"model": str(base), "train": train, "tokens": TOKENS, "examples": None}
    pair = load_pair("testbed").model_copy(update=settings)
    recipe = load_recipe("dpo").model_copy(update={"dpo": SETTINGS})
    model = load_base(pair)
    rows = encode_examples(model.tokenizer, read_examples(train).examples, pair.max_length)
    run = CellRun(LEARNING_RATE, 0, lay_out(rows, pair, seed=0, objective=recipe.objective))
    train_cell(model, pair, recipe, rows=rows, run=run, folder=folder)
    (folder / "README.md").unlink()  # PEFT's, to be filled in
    config = read_json(folder / CONFIG)
    config["base_model_name_or_path"] = base.parent.name  # not a folder of this machine
    write_json(folder / CONFIG, config, sort_keys=True)
