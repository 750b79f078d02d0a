"""Models of many architectures with a few thousand random parameters, for the tokenizer of the tiny Llama."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

WIDTH = 32
LAYERS = 2

TOKENS: dict[str, Any] = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
LONGEST = {"max_position_embeddings": 1024}
LLAMA: dict[str, Any] = {
    **{"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, **LONGEST},
}
NO_KV: dict[str, Any] = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
SHORT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 1024}
OPT = {"hidden_size": WIDTH, "ffn_dim": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4, **LONGEST}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {
    **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 2},
    **{"image_size": 16, "patch_size": 8, "vision_use_head": False},
}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **LLAMA},
    "gpt2": {"model_type": "gpt2", **SHORT},
    "gpt_neox": {"model_type": "gpt_neox", **NO_KV},
    "gpt_neox-sequential": {"model_type": "gpt_neox", **NO_KV, "use_parallel_residual": False},
    "opt": {"model_type": "opt", **OPT, "word_embed_proj_dim": WIDTH},
    "opt-350m": {"model_type": "opt", **OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "phi3": {"model_type": "phi3", **LLAMA},
    "qwen3": {"model_type": "qwen3", **LLAMA, "head_dim": 8},
    "gemma2": {"model_type": "gemma2", **LLAMA, "head_dim": 8},
    "gemma3_text": {"model_type": "gemma3_text", **LLAMA, "head_dim": 8},
    "gemma3": {
        "model_type": "gemma3",
        "text_config": {**LLAMA, **TOKENS, "head_dim": 8},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        **{"boi_token_index": 2, "eoi_token_index": 3, "image_token_index": 4},
    },
    "mixtral": {"model_type": "mixtral", **LLAMA, "num_local_experts": 4},
    "olmo2": {"model_type": "olmo2", **LLAMA},
    "mistral": {"model_type": "mistral", **LLAMA},
    "smollm3": {"model_type": "smollm3", **LLAMA},
    "granite": {"model_type": "granite", **LLAMA, "residual_multiplier": 0.5},
    "olmo": {"model_type": "olmo", **LLAMA},
    "exaone4": {"model_type": "exaone4", **LLAMA},
    "cohere": {"model_type": "cohere", **LLAMA},
    "cohere2": {"model_type": "cohere2", **LLAMA},
    "starcoder2": {"model_type": "starcoder2", **LLAMA},
    "stablelm": {"model_type": "stablelm", **LLAMA},
    "stablelm-parallel": {"model_type": "stablelm", **LLAMA, "use_parallel_residual": True},
    "glm": {"model_type": "glm", **LLAMA, "head_dim": 8},
    "glm4": {"model_type": "glm4", **LLAMA, "head_dim": 8},
    "phi": {"model_type": "phi", **LLAMA},
    "gpt_bigcode": {"model_type": "gpt_bigcode", **SHORT},
    "gpt_neo": {
        "model_type": "gpt_neo",
        **{"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": 4, "attention_types": [[["global"], LAYERS]]},
        **LONGEST,
    },
    "gptj": {"model_type": "gptj", **SHORT, "rotary_dim": 4},
    "codegen": {"model_type": "codegen", **SHORT, "rotary_dim": 4},
    "bloom": {"model_type": "bloom", "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 4},
    "falcon": {"model_type": "falcon", **NO_KV},
    "mpt": {"model_type": "mpt", "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 4, "max_seq_len": 1024},
    "qwen2_moe": {
        **{"model_type": "qwen2_moe", **LLAMA, **EXPERTS},
        **{"shared_expert_intermediate_size": 16},
    },
    "olmoe": {"model_type": "olmoe", **LLAMA, **EXPERTS},
    **{
        kind: {"model_type": kind, **LLAMA, "head_dim": 8}
        for kind in ("qwen2", "gemma", "helium", "arcee", "seed_oss", "ministral", "ministral3", "olmo3")
    },
    "qwen3_moe": {"model_type": "qwen3_moe", **LLAMA, **EXPERTS, "head_dim": 8},
    "gpt_oss": {"model_type": "gpt_oss", **LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "phimoe": {"model_type": "phimoe", **LLAMA, "num_local_experts": 4},
    "mamba": {"model_type": "mamba", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4},
}
"""By name; Llama's family, what else the table has, and Mamba, which is refused."""

UNLISTED = {"persimmon": {"model_type": "persimmon", **NO_KV, "partial_rotary_factor": 0.5}}
"""One of a type that the table does not have."""

ASKED = [
    *("gpt2", "gpt_neox", "opt", "opt-350m", "phi3", "qwen3", "gemma3_text", "gemma3", "mixtral", "olmo2"),
]
"""Those that whole comparisons are run on."""


def tiny_model(name: str, **changes: Any) -> Any:
    """The model of this name, in evaluation mode; gains and biases are at random, too: ones would hide faults."""
    config = AutoConfig.for_model(**{**TOKENS, **{**CONFIGS, **UNLISTED}[name], **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    for path, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.normal_(0.5 if "weight" in path else 0.0, 0.2)
    return model
