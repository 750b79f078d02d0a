"""What is read off chat templates: where answers begin and end, and what they say of the time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import read_examples
from sails_eval.models.base import load_tokenizer
from sails_eval.models.chat import (
    encode_chat,
    end_of_turn,
    ending_of,
    has_system_role,
    render_answer,
    render_chat,
    render_prompt,
)
from sails_eval.models.identity import model_identity
from sails_eval.training.batches import encode_examples

HELLO = [{"role": "user", "content": "hello"}]
TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CLOSED = "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
THINKS = (  # as Qwen3's: an empty block of thoughts before the last answer
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}" + OPENED
)
SPOKEN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + OPENED.replace(
    "<|im_start|>assistant\n", "assistant: "
)


@pytest.fixture
def folder(tiny_llama_dir: Path, tmp_path: Path) -> Path:
    """The tiny Llama with the tokens of Qwen3's chat template."""
    made = shutil.copytree(tiny_llama_dir, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(made)
    return made


def loaded(folder: Path, template: str, **changed: Any) -> Any:
    """The folder's tokenizer with a template, and with other keys in its tokenizer_config.json."""
    (folder / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "tokenizer_config.json").read_text()) | changed
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(Pair(name="p", model=str(folder)))


@pytest.mark.parametrize(
    ("template", "token", "learnt"),
    [
        (TURNS + OPENED, "<|im_end|>", "hi<|im_end|>\n"),
        (THINKS, "<|im_end|>", "<think>\n\n</think>\n\nhi<|im_end|>\n"),
        (TURNS, "<|im_end|>", "hi<|im_end|>\n"),
        (TURNS + "<|im_start|>assistant{{ '\n' }}", "<|im_end|>", "hi<|im_end|>\n"),
        (TURNS + OPENED + CLOSED, "<|im_end|>", "hi<|im_end|>\n<|end|>"),
        (SPOKEN, "", "hi\n<|end|>"),
    ],
    ids=["plain", "thinking", "never opens", "always opens", "end of text, too", "no end"],
)
def test_an_answer_ends_with_what_the_template_writes_behind_it(
    folder: Path, template: str, token: str, learnt: str
) -> None:
    tokenizer = loaded(folder, template)
    ending, prompt = ending_of(tokenizer), render_chat(tokenizer, HELLO)
    assert ending.token == token
    assert end_of_turn(tokenizer) == (tokenizer.convert_tokens_to_ids(token) if token else None)
    if template != SPOKEN:
        assert prompt == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert render_answer(tokenizer, HELLO, prompt, "hi", ending) == learnt
    (row,) = encode_examples(tokenizer, [Example((Message("user", "hello"),), "hi")], 100)
    assert tokenizer.decode([label for label in row.labels if label != -100]) == learnt


def test_a_line_break_that_is_a_token_ends_no_answer(folder: Path) -> None:
    tokenizer = loaded(folder, SPOKEN)
    tokenizer.add_tokens(["\n"])
    assert ending_of(tokenizer).token == ""


def test_only_words_open_a_turn_that_the_template_leaves_closed(folder: Path) -> None:
    tokenizer = loaded(
        folder, "{% for m in messages %}{{ '[INST] ' if m.role == 'user' else ' ' }}{{ m.content }}{% endfor %}"
    )
    assert render_chat(tokenizer, HELLO) == "[INST] hello"  # the blank is the answer's


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (TURNS + OPENED.replace("assistant", "assistant\n<think>"), "changes the request once it is answered"),
        ("Q {{ messages[0]['content'] }}", "does not write the assistant's answer"),
    ],
)
def test_a_template_in_which_no_answer_can_be_learnt_is_an_error(folder: Path, template: str, told: str) -> None:
    tokenizer = loaded(folder, template)
    with pytest.raises(UserError, match=rf"request 'hello': .*{told}"):
        encode_examples(tokenizer, [Example((Message("user", "hello"),), "hi")], 100)


def test_one_of_several_templates_has_to_be_the_default(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for names in (("default", "tools"), ("rag", "tools")):
        config["chat_template"] = [{"name": name, "template": TURNS + OPENED} for name in names]
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        if "default" in names:
            assert render_chat(load_tokenizer(Pair(name="p", model=str(folder))), HELLO).endswith("assistant\n")
    with pytest.raises(UserError, match="its chat templates are rag, tools, none is the default"):
        load_tokenizer(Pair(name="p", model=str(folder)))


def test_an_expression_that_python_refuses_is_the_templates_fault(folder: Path) -> None:
    with pytest.raises(UserError, match="the chat template cannot render a dialogue of user"):
        loaded(folder, "{{ 'a' + 1 }}")


def test_a_bos_token_may_open_every_turn(folder: Path) -> None:
    tokenizer = loaded(folder, TURNS + OPENED, bos_token="<|im_start|>")
    assert tokenizer.bos_token == "<|im_start|>"
    assert encode_chat(tokenizer, HELLO).count(tokenizer.bos_token_id) == 2


def test_a_tokenizer_without_eos_and_pad_gets_what_ends_an_answer(folder: Path) -> None:
    tokenizer = loaded(folder, TURNS + OPENED, eos_token=None, pad_token=None)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    assert load_tokenizer(Pair(name="p", model=str(folder))).eos_token == "<|im_end|>"
    assert loaded(folder, SPOKEN, eos_token=None, pad_token=None).eos_token == tokenizer.convert_ids_to_tokens(1)
    (folder / "generation_config.json").unlink()
    with pytest.raises(UserError, match="no EOS token and its chat template ends answers with no special token"):
        load_tokenizer(Pair(name="p", model=str(folder)))


def test_the_time_in_a_template_is_the_same_on_every_day(folder: Path) -> None:
    dated = "\n{%- if strftime_now is defined %}{{ 'On ' + strftime_now('%d %b %Y %H:%M:%S, %-d %j %R') }}{% endif %}\n"
    tokenizer = loaded(folder, dated + TURNS + OPENED)
    assert render_chat(tokenizer, HELLO).startswith("On 26 Jul 2024 12:00:00, 26 208 12:00")
    pair = Pair(name="p", model=str(folder))
    assert model_identity(pair)["clock"] == "2024-07-26T12:00:00"
    (folder / "chat_template.jinja").write_text(TURNS)
    assert "clock" not in model_identity(pair)


REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}{% if m.role == 'user' %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


LEAVES_OUT = REFUSES.replace("{{ raise_exception('no system') }}{% endif %}", "{% else %}").replace(
    "{% endfor %}", "{% endif %}{% endfor %}", 1
)


@pytest.mark.parametrize("text", [REFUSES, LEAVES_OUT])
def test_a_system_turn_that_the_template_refuses_stands_before_the_users(
    testbed_pair: Pair, tmp_path: Path, text: str
) -> None:
    template, data = tmp_path / "t.jinja", tmp_path / "d.jsonl"
    template.write_text(text)
    tokenizer = load_tokenizer(testbed_pair.model_copy(update={"chat_template": template}))
    assert not has_system_role(tokenizer)
    turns = [{"role": "system", "content": "be brief ."}, {"role": "user", "content": "how ?"}]
    asked = "[user] be brief .\n\nhow ?\n[assistant] "
    assert render_chat(tokenizer, turns) == render_prompt(tokenizer, turns) == asked
    begun = [*turns, {"role": "assistant", "content": "sure"}]
    assert render_prompt(tokenizer, begun, add_generation_prompt=False) == asked + "sure"
    data.write_text(json.dumps({"messages": [*turns, {"role": "assistant", "content": "boil it ."}]}))
    (row,) = encode_examples(tokenizer, read_examples(data).examples, 64)
    assert row.input_ids[: row.prompt_length] == encode_chat(tokenizer, turns)
    if text == REFUSES:
        with pytest.raises(UserError, match="cannot render a dialogue of system: no system"):
            render_chat(tokenizer, turns[:1])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (TURNS.replace("m.content", "m.content | upper"), "does not write what the user says"),
        (TURNS.replace("m.content", "m.content | e"), "does not write what the user says"),
        (TURNS.replace("m.content", "m.content[:200]"), "does not write what the user says"),
        (TURNS.replace("{{ m.content }}", "{% for c in m.content %}{{ c.text }}{% endfor %}"), "does not write what"),
        (TURNS + "{{ range(1000) | random }}{{ range(1000) | random }}", "writes something else every time"),
        (TURNS + "{% for i in range(10**9) %}{% endfor %}", "cannot render a dialogue of user: Range too big"),
        (TURNS + "{{ 1 / 0 }}", "cannot render a dialogue of user: division by zero"),
    ],
)
def test_a_template_that_loses_requests_or_fails_is_told_with_its_model(
    folder: Path, template: str, words: str
) -> None:
    with pytest.raises(UserError, match=f"^model '.*': .*{words}"):
        loaded(folder, template + OPENED)
