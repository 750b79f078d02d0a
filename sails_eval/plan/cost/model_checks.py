"""Whether a pair's model, tokenizer and chat template fit each other, and whether methods can train the model.

The same for `pairs check` and `compare`, which load the weights, and for `plan`, which has the model on torch's meta
device. An error stops a run; a note does not.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.core.recipe import Recipe
from sails_eval.data.dialogues import Example
from sails_eval.data.reading import read_examples
from sails_eval.methods import initialisations
from sails_eval.methods.subspace.saes import check_fits, read_folder
from sails_eval.models.base import HELLO, config_of, dtype_of, ends_of, load_tokenizer, load_weights
from sails_eval.models.chat import encode_chat, end_tokens, ending_of, render_answer, render_chat
from sails_eval.models.hub import is_here
from sails_eval.models.templates import CLOCK, MARKS, reads_clock
from sails_eval.plan.cost.meta_model import Shape, on_meta, to_train
from sails_eval.plan.problems import Problem, Problems, if_it_can
from sails_eval.training.cell import check_target_modules


def check_model(shape: Shape, pair: Pair, recipes: Sequence[Recipe]) -> Problems:
    """What is wrong with a model, or to be known of it, without its weights; its files are looked at if they are here.

    For `plan`; what loads the model asks for the parts.
    """
    problems = Problems()
    check_stored(pair, problems)
    problems.attempt(check_saes, pair, shape, recipes)
    return Problems([*problems, *check_methods(on_meta(shape, pair, dtype=dtype_of(pair)), shape, pair, recipes)])


def check_stored(pair: Pair, problems: Problems) -> None:
    """Add what is wrong with a model whose files are here, and what is to be known of it; no weight is read."""
    if not is_here(pair.model, pair.revision):
        return
    # that data are missing is told elsewhere
    examples = if_it_can(read_examples, pair.train) if pair.train else None
    tokenizer = problems.attempt(load_tokenizer, pair)
    model = problems.attempt(load_weights, pair, device_map="meta")
    if tokenizer is None or model is None:
        return
    if problems.attempt(ends_of, pair, model.generation_config, tokenizer) is None:
        return
    problems.attempt(check_tokens, tokenizer, model, examples.examples if examples else ())
    problems.attempt(check_answers, tokenizer)
    problems += [Problem(note, stops=False) for note in notes_on(pair, tokenizer, model)]


def check_saes(pair: Pair, shape: Shape, recipes: Iterable[Recipe]) -> None:
    """Raises UserError where files of SAEs that recipes need cannot be read, or are not for this model."""
    problems = Problems()
    starts = initialisations(recipes)
    needed = [pair.sae_sources(start.sae_set) for start in starts if start.needs & {"saes", "layers"}]
    for source in dict.fromkeys(chain(*needed)):
        problems.attempt(check_sae, source, shape, pair)
    problems.check()


def check_sae(source: SaeSource, shape: Shape, pair: Pair) -> None:
    """The same of one; without loading it, as far as it lies in a folder."""
    if source.path is not None and source.path.is_dir():
        check_fits(source, read_folder(source.path), shape.text, pair.model)


def check_methods(model: Any, shape: Shape, pair: Pair, recipes: Iterable[Recipe]) -> Problems:
    """Why recipes could not train a model (on the meta device, or loaded), with a line for each."""
    problems = Problems()
    problems.attempt(check_target_modules, model, pair)
    for recipe in [] if problems else recipes:
        problems.attempt(_check_method, shape, pair, recipe)
    return problems


def _check_method(shape: Shape, pair: Pair, recipe: Recipe) -> None:
    try:
        to_train(shape, pair, recipe)
    except UserError as error:
        told = str(error).replace("base_model.model.", "")  # PEFT's
        raise UserError(f"method '{recipe.name}' cannot train model '{pair.model}': {told}") from error


def check_tokens(tokenizer: Any, model: Any, examples: Iterable[Example] = ()) -> None:
    """Raises UserError where the chat template, padding or examples have tokens that the model has no embedding of."""
    beyond = _beyond(tokenizer, model)
    if not beyond:
        return
    if {*encode_chat(tokenizer, HELLO), *_ends(tokenizer, model), tokenizer.pad_token_id} & {*beyond.values()}:
        raise UserError(
            f"{_told(beyond, model)}; the chat template or padding uses one of them; resize the model's embeddings"
        )
    for example in examples:
        texts = (*(message.content for message in example.messages), example.response, example.rejected or "")
        if found := next((token for token in beyond if any(token in text for text in texts)), None):
            raise UserError(
                f"{_told(beyond, model)}; the training data have {found}; resize the embeddings, or remove it"
            )


def check_answers(tokenizer: Any) -> None:
    """Raises UserError where answers could not be learnt in the chat template."""
    if MARKS[0] not in render_answer(tokenizer, HELLO, render_chat(tokenizer, HELLO), MARKS[0], ending_of(tokenizer)):
        raise UserError("the chat template changes what the assistant says; give another: --chat-template FILE")


def turns(tokenizer: Any, model: Any) -> str:
    """What opens an answer and what ends it, in words."""
    opening = render_chat(tokenizer, HELLO).partition(HELLO[0]["content"])[2]
    ends = " or ".join(map(str, tokenizer.convert_ids_to_tokens(_ends(tokenizer, model))))
    return (
        f"answers start after {opening!r}, are trained to end with {ending_of(tokenizer).learnt!r}, and stop at {ends}"
    )


def notes_on(pair: Pair, tokenizer: Any, model: Any) -> Iterator[str]:
    """What to know of model, tokenizer and chat template; none of it stops a run."""
    config, attention = model.config.get_text_config(), model.config._attn_implementation
    if not ending_of(tokenizer).token:
        yield (
            f"the chat template ends answers without a special token, so models are trained to end them with "
            f"{tokenizer.eos_token}; to end them otherwise, give --chat-template FILE"
        )
    if reads_clock(tokenizer.chat_template):
        yield f"the chat template uses the current time, which is fixed at {CLOCK:%Y-%m-%d %H:%M} in all prompts"
    if lacks_bos(tokenizer):
        yield "the chat template writes no BOS token, although the tokenizer adds one to plain text"
    if config.model_type.startswith("gemma2") and attention != "eager":
        yield f"attention: {attention} ignores Gemma 2's soft-capping; set attn_implementation: eager"
    if is_apart(pair, model):
        yield (
            "its files have an output head separate from the embedding, but config.json calls them tied; it is used "
            "as stored, but vLLM would tie it: set tie_word_embeddings to false in config.json"
        )
    if beyond := _beyond(tokenizer, model):
        yield f"{_told(beyond, model)}; texts must not contain these"


def lacks_bos(tokenizer: Any) -> bool:
    """Whether prompts have no BOS token, although the tokenizer would put one in front of plain text."""
    bos = tokenizer.bos_token_id
    starts = getattr(tokenizer, "add_bos_token", None) or tokenizer("a")["input_ids"][:1] == [bos]
    return bool(bos is not None and starts and bos not in encode_chat(tokenizer, HELLO))


def is_apart(pair: Pair, model: Any) -> bool:
    """Whether a model has two weights where its config.json says that head and embedding share one."""
    with suppress(UserError):
        told = config_of(pair, local_files_only=True).get_text_config()
        return bool(told.tie_word_embeddings and not model.config.get_text_config().tie_word_embeddings)
    return False


def _ends(tokenizer: Any, model: Any) -> list[int]:
    return end_tokens(model.generation_config, tokenizer)


def _beyond(tokenizer: Any, model: Any) -> dict[str, int]:
    """The tokens that the model has no embedding of, with their ids."""
    rows = _rows(model)
    if tokenizer.vocab_size <= rows and max(tokenizer.added_tokens_decoder, default=0) < rows:
        return {}
    found = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    return {token: number for number, token in found}


def _told(beyond: dict[str, int], model: Any) -> str:
    named = ", ".join(list(beyond)[:3])
    return f"the tokenizer has more tokens than the model: {len(beyond)} beyond its {_rows(model)} embeddings ({named})"


def _rows(model: Any) -> int:
    return int(model.get_input_embeddings().weight.shape[0])
