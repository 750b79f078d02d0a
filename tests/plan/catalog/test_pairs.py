"""Pairs checked on small stand-ins: models that we make, SAEs in the real releases' files in a fake hub cache."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from sae_lens.loading import pretrained_sae_loaders
from sae_lens.loading.pretrained_saes_directory import get_repo_id_and_folder_name
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource, load_pair
from sails_eval.core.paths import PACKAGE
from sails_eval.methods.subspace.saes import check_fits, load_sae, stated_by
from sails_eval.models.base import load_tokenizer
from sails_eval.models.chat import encode_chat
from sails_eval.plan.catalog.pairs import Finding, check_pair, published_l0

REAL = ("gemma-2-2b", "gemma-2-9b", "llama-3.1-8b", "gemma-3-4b", "qwen3-8b")
D, FEATURES = 8, 16
OF_MODEL = SimpleNamespace(hidden_size=D, num_hidden_layers=100)
COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of our own, to be filled by `lay`."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return folder


def lay(cache: Path, repo: str, file: str) -> Path:
    """The path of a file of a repository in the cache, as huggingface_hub lays it out; its folder is made."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)
    path = home / "snapshots" / COMMIT / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def lay_sae(cache: Path, source: SaeSource, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A small SAE in the files of the release of `source`; encoder [D, FEATURES] and decoder [FEATURES, D]."""
    repo, folder = get_repo_id_and_folder_name(str(source.release), str(source.id))
    made = torch.Generator().manual_seed(0)
    w_enc, w_dec = (torch.randn(*shape, generator=made) for shape in ((D, FEATURES), (FEATURES, D)))
    b_enc, b_dec = torch.zeros(FEATURES), torch.zeros(D)
    if "gemma-scope-2-" in repo:
        parts = {"w_enc": w_enc, "w_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": torch.ones(FEATURES)}
        save_file(parts, lay(cache, repo, f"{folder}/params.safetensors"))
        told = {"architecture": "jump_relu", "model_name": "gemma-v3-4b-pt"}
        lay(cache, repo, f"{folder}/config.json").write_text(json.dumps(told))
        shapes = {
            name: list(part.shape) for name, part in parts.items()
        }  # SAELens asks the hub, even for a cached file
        monkeypatch.setattr(pretrained_sae_loaders, "get_safetensors_tensor_shapes", lambda *_: shapes)
    elif "gemma-scope" in repo:
        with lay(cache, repo, f"{folder}/params.npz").open("wb") as file:
            np.savez(file, W_enc=w_enc, W_dec=w_dec, b_enc=b_enc, b_dec=b_dec, threshold=np.ones(FEATURES, np.float32))
        real = pretrained_sae_loaders.get_gemma_2_config_from_hf  # its widths are known by name, ours are small
        small = {"d_in": D, "d_sae": FEATURES}
        monkeypatch.setattr(pretrained_sae_loaders, "get_gemma_2_config_from_hf", lambda *given: real(*given) | small)
    elif "Llama" in repo:
        layer = folder.split("-L")[1].split("R")[0]
        settings = {
            "d_model": D, "d_sae": FEATURES, "jump_relu_threshold": 0.5,
            "hook_point_in": f"blocks.{layer}.hook_resid_post",
            "dataset_average_activation_norm": {"in": 2.0},
        }  # fmt: skip
        lay(cache, repo, f"{folder}/hyperparams.json").write_text(json.dumps(settings))
        weights = {
            "encoder.weight": w_enc.T, "decoder.weight": w_dec.T, "encoder.bias": b_enc, "decoder.bias": b_dec
        }  # fmt: skip
        contiguous = {name: weight.contiguous() for name, weight in weights.items()}
        save_file(contiguous, lay(cache, repo, f"{folder}/checkpoints/final.safetensors"))
    else:
        weights = {"W_enc": w_enc.T, "W_dec": w_dec.T, "b_enc": b_enc, "b_dec": b_dec}
        torch.save(weights, lay(cache, repo, folder))
        real_qwen = pretrained_sae_loaders.get_qwen_scope_config_from_hf
        sizes = {"d_in": D, "d_sae": FEATURES, "activation_fn_kwargs": {"k": 3}}
        monkeypatch.setattr(
            pretrained_sae_loaders, "get_qwen_scope_config_from_hf", lambda *given: real_qwen(*given) | sizes
        )
    return {"W_enc": w_enc, "W_dec": w_dec}


@pytest.mark.parametrize("name", REAL)
def test_the_saes_of_a_pair_load_through_the_real_loaders(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = load_pair(name)
    layers = []
    for source in pair.saes:
        laid = lay_sae(cache, source, monkeypatch)
        sae = load_sae(source)
        layers.append(check_fits(source, stated_by(sae), OF_MODEL, pair.model))
        cosines = torch.nn.functional.cosine_similarity(sae.W_dec.float(), laid["W_dec"])
        assert cosines.min() > 0.999
    assert layers == sorted(set(layers)) and str(layers[0]) in str(pair.saes[0].id)
    assert all(published_l0(source) for source in pair.saes)


def test_the_scale_of_llama_scope_is_folded_into_its_weights(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_pair("llama-3.1-8b").saes[0]
    laid = lay_sae(cache, source, monkeypatch)
    sae = load_sae(source)
    factor = 8.827586206896552  # of layer 10, in SAELens's registry
    torch.testing.assert_close(sae.W_dec.float(), laid["W_dec"] / factor, rtol=0.02, atol=1e-3)
    assert sae.cfg.normalize_activations == "none"


def test_a_scale_that_is_not_folded_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_pair("llama-3.1-8b").saes[0]
    lay_sae(cache, source, monkeypatch)
    monkeypatch.setattr("sae_lens.saes.sae.get_norm_scaling_factor", lambda *_: None)
    with pytest.raises(UserError, match=r"l10r_8x': it reads activations scaled by 'expected_average_only_in'"):
        load_sae(source)


def test_a_sae_of_another_model_is_refused_although_it_fits(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_pair("llama-3.1-8b").saes[0]
    lay_sae(cache, source, monkeypatch)
    sae = load_sae(source)
    with pytest.raises(UserError, match=r"is of the model 'meta-llama/Llama-3.1-8B', not of 'Qwen/Qwen3-8B-Base'"):
        check_fits(source, stated_by(sae), OF_MODEL, "Qwen/Qwen3-8B-Base")
    meant = source.model_copy(update={"trained_on": "meta-llama/Llama-3.1-8B"})
    check_fits(meant, stated_by(sae), OF_MODEL, "meta-llama/Llama-3.1-8B-Instruct")


@pytest.mark.parametrize("name", ["gemma", "llama-3", "chatml"])
def test_the_chat_templates_write_one_bos_and_answers_that_continue_the_request(
    name: str, tiny_llama_dir: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.bos_token = "<pad>"
    tokenizer.chat_template = (PACKAGE / "pairs" / "templates" / f"{name}.jinja").read_text()
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " hello "},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "bread?"},
    ]
    prompt = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*talk, {"role": "assistant", "content": "yes"}], tokenize=False)
    assert whole.startswith(prompt) and "yes" in whole[len(prompt) :] and whole[len(prompt) :].rstrip().endswith(">")
    assert prompt.count("<pad>") == (0 if name == "chatml" else 1)
    assert encode_chat(tokenizer, talk).count(tokenizer.bos_token_id) == prompt.count("<pad>")
    assert prompt.index("Be kind.") < prompt.index("hello") and " hello " not in prompt


def test_bos_twice_is_refused(tiny_llama_dir: Path, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_llama_dir)
    tokenizer.bos_token = "<pad>"
    tokenizer.save_pretrained(tmp_path / "model")
    template = tmp_path / "twice.jinja"
    template.write_text("{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}")
    with pytest.raises(UserError, match="its chat template writes the BOS token twice"):
        load_tokenizer(Pair(name="p", model=str(tmp_path / "model"), chat_template=template))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what.rpartition("/")[2]: finding for finding in findings}


def test_the_testbeds_pair_fits(testbed_pair: Pair) -> None:
    one = testbed_pair.model_copy(update={"saes": testbed_pair.saes[:1]})
    found = by_name(check_pair(one))
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["model"].told == "4 layers of width 128, float32" and found["chat template"].told == "1 BOS token"
    assert found["layer_0: hook"].told == "output of layers.0" and "published L0: 12" in found["layer_0: L0"].told


def test_a_sae_at_the_wrong_layer_shows(testbed_pair: Pair) -> None:
    moved = testbed_pair.saes[0].model_copy(update={"layer": 3})
    found = by_name(check_pair(testbed_pair.model_copy(update={"saes": (moved, testbed_pair.saes[3])})))
    assert found["layer_0: L0"].state == "wrong"
    assert "refused without --allow-poor-saes" in found["layer_0: L0"].told
    assert found["layer_3"].told == "layer 3 has two SAEs; remove one from key 'saes' of pair 'testbed'"


def test_what_is_not_here_is_said_and_is_no_fault(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", "check", "llama-3.1-8b"]) == 0
    told = capsys.readouterr().out
    assert (
        "is gated, and there is no token; accept its licence at https://huggingface.co/meta-llama/Llama-3.1-8B" in told
    )
    assert told.count("missing  ") == 6


def test_pairs_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in REAL)
    assert main(["pairs", "show", "gemma-2-9b"]) == 0
    told = capsys.readouterr().out
    assert (
        "output of layers.30, for o_proj of layer 30 and q_proj, k_proj, v_proj of layer 31, published L0 120" in told
    )


def test_a_gated_model_names_the_page_and_the_way_out(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    import httpx
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    from sails_eval.models.identity import commit_of

    def refuse(*args: Any, **kwargs: Any) -> None:
        response: Any = httpx.Response(403, request=httpx.Request("GET", "https://hub"))  # newer releases want httpx2's
        raise GatedRepoError("403", response=response)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(UserError, match=r"https://huggingface.co/some/model, then run 'hf auth login' .* local copy"):
        commit_of("some/model", None)
