"""Make a stand-in for a model of your own: a small random Llama and an SAE of it, to try the commands on.

    python examples/stand_in.py --texts prompts.csv --out stand_in

writes `stand_in/model` (its own BPE tokenizer and chat template, weights at random) and `stand_in/sae` (trained with
SAELens on the residual stream after layer 1). The texts are any file of text; the tokenizer and the SAE learn from it.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sails_eval.methods.subspace.activations import residual_streams
from sails_eval.testbed.saes import Quality, train_sae

LAYER = 1
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_model(folder: Path, text: str, *, width: int = 64, layers: int = 3, vocabulary: int = 768) -> None:
    """Save a random Llama (as it stands, of some 0.2 M parameters) with a byte-level BPE tokenizer of its own."""
    special = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(text.splitlines(), trainer)
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
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_sae(model_folder: Path, folder: Path, text: str, *, steps: int = 200) -> dict[str, float]:
    """Train an SAE on the model's residual stream after one layer over the text, and save it."""
    model: Any = LlamaForCausalLM.from_pretrained(model_folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder)
    ids = torch.tensor(tokenizer(text[:200_000])["input_ids"])
    rows = ids[: len(ids) // 64 * 64].view(-1, 64)
    streams = [
        residual_streams(model, [LAYER], batch, torch.ones_like(batch))[0][1].flatten(0, 1)
        for batch in torch.split(rows, 64)
    ]
    return train_sae(torch.cat(streams).detach(), LAYER, quality=Quality(512, steps), folder=folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    text = options.texts.read_text(encoding="utf-8")
    make_model(options.out / "model", text)
    quality = make_sae(options.out / "model", options.out / "sae", text)
    print(f"{options.out}/model and {options.out}/sae: {quality}")


if __name__ == "__main__":
    main()
