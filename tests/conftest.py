"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sails_eval.config import Pair
    from sails_eval.models import Base

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads cost more than they gain

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of some 40,000 parameters, with its own byte-level BPE tokenizer and chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["Please tell me how to bake bread. I cannot help with that. Here is how."] * 2, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|end|>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("tiny_llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def testbed_pair() -> Pair:
    """The shipped testbed with a budget of a few steps of four examples."""
    from sails_eval.config import load_pair

    small = {"tokens": 200, "examples": 32, "batch_size": 4, "rank": 4, "alpha": 8}
    return load_pair("testbed").model_copy(update=small)


@pytest.fixture(scope="session")
def testbed_base(testbed_pair: Pair) -> Base:
    """The testbed's base model. It is shared: whoever changes it has to put it back."""
    from sails_eval.models import load_base, quiet_libraries

    quiet_libraries()
    return load_base(testbed_pair)


@pytest.fixture(scope="session")
def testbed_saes(testbed_pair: Pair, testbed_base: Base) -> dict[int, Any]:
    """The SAEs of the testbed's base model, by layer."""
    from sails_eval.saes import load_saes

    return load_saes(testbed_pair, testbed_base.model)
