"""The table of architectures is seen by doing to be right: what modules read, and where what they write goes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch.nn.functional import cosine_similarity

from sails_eval.core.architecture import Architecture
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.methods import adapted_modules
from sails_eval.methods.subspace.basis import LORA_NORM, initialise
from sails_eval.methods.subspace.settings import Placement
from sails_eval.models import architectures
from sails_eval.models.adapters import add_adapter, linear_modules
from sails_eval.models.architectures import architecture, named, table
from sails_eval.models.layers import UNKNOWN, Place, Places, architecture_of, decoder_layers, with_architecture
from sails_eval.models.probe import doubts, found_by_doing
from tests.tiny_models import ASKED, CONFIGS, LAYERS, WIDTH, tiny_model

IDS = torch.tensor([[5, 17, 40, 99, 123, 7]])
KNOWN = [
    name if name in ("llama", *ASKED) else pytest.param(name, marks=pytest.mark.slow)
    for name in CONFIGS
    if name != "mamba"
]


@contextmanager
def watched(modules: dict[Any, Any]) -> Iterator[dict[Any, tuple[torch.Tensor, torch.Tensor]]]:
    """The (input, output) of every module in the block's forward passes, by its key."""
    seen: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(key: Any) -> Any:
        def hook(module: Any, inputs: Any, kwargs: Any, output: Any) -> None:
            first = inputs[0] if inputs else next(iter(kwargs.values()))
            seen[key] = first.clone(), (output[0] if isinstance(output, tuple) else output).clone()

        return hook

    handles = [module.register_forward_hook(keep(key), with_kwargs=True) for key, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def places_of(model: Any, layer: int) -> dict[str, Place]:
    """The places of all linear modules of a layer whose side is known."""
    places, found = Places(model), {}
    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    for name in linear_modules(model):
        if name.startswith(f"{prefix}.{layer}.") and not name.endswith(("shared_expert_gate", "router")):
            found[name.removeprefix(f"{prefix}.{layer}.")] = places.of(name)
    return found


def image(layer: Any, place: Place, seen: Any, added: torch.Tensor) -> torch.Tensor:
    """What a layer adds to the stream where `added` comes on top of what a writer writes: through a norm, if any."""
    if place.norm is None:
        return added
    norm, (told, before) = layer.get_submodule(place.norm), seen[place.norm]
    changed: torch.Tensor = norm(told + added) - before
    return changed


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_writer_writes_is_added_to_the_stream_after_its_layer(name: str) -> None:
    model = tiny_model(name)
    layer, n = decoder_layers(model)[LAYERS - 2], LAYERS - 2
    places = {path: place for path, place in places_of(model, n).items() if place.writes}
    assert places and all(place.layer == n for place in places.values())
    norms = {place.norm for place in places.values() if place.norm}
    inside = dict(layer.named_modules())
    others = places.keys() | ({"mlp"} if "mlp.experts" in inside else set())  # which write together
    with watched({path: layer.get_submodule(path) for path in others | norms} | {"": layer}) as seen:
        model(IDS)
        base = dict(seen)
    for path, place in places.items():
        added = 0.1 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))
        blocks = {other for other in others if other != path and not path.startswith(f"{other}.")}
        handles = [layer.get_submodule(path).register_forward_hook(lambda m, i, out, added=added: out + added)]
        for block in blocks:  # they write what they wrote before, so that only the direct way is seen
            handles.append(layer.get_submodule(block).register_forward_hook(replaying(base[block][1])))
        with watched({"": layer}) as seen:
            model(IDS)
        for handle in handles:
            handle.remove()
        moved, expected = seen[""][1] - base[""][1], image(layer, place, base, added).expand_as(seen[""][1])
        alike = cosine_similarity(moved, expected, dim=-1)
        # behind OPT-350M's attention stands a second norm, that of the MLP
        assert alike.min() > (0.7 if name == "opt-350m" else 0.999), (path, alike)


def replaying(output: torch.Tensor) -> Any:
    def hook(module: Any, inputs: Any, found: Any) -> Any:
        return (output, *found[1:]) if isinstance(found, tuple) else output

    return hook


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_reader_reads_is_the_stream_after_the_layer_before(name: str) -> None:
    model = tiny_model(name)
    layers = decoder_layers(model)
    layer, n = layers[LAYERS - 1], LAYERS - 1
    places = places_of(model, n)
    norms = {place.norm for place in places.values() if place.norm}
    inside = {path: layer.get_submodule(path) for path in norms | places.keys()}
    with watched({**inside, "": layer, "before": layers[n - 1]}) as seen:
        model(IDS)
    stream = seen["before"][1]
    assert torch.equal(seen[""][0], stream)
    written = [seen[place.norm or path][1] for path, place in places.items() if place.writes]
    scale = 0.5 if name == "granite" else 1.0  # by which it multiplies what is written
    along = [stream, *(stream + scale * one for one in written), *written]  # OPT-350M's stream comes out of a norm
    readers = {path: place for path, place in places.items() if not place.writes}
    assert readers
    for path, place in readers.items():
        assert place.layer == n
        read = seen[path][0].reshape(stream.shape)
        if place.norm is not None:
            assert torch.equal(read, seen[place.norm][1].reshape(stream.shape)), path
            read = seen[place.norm][0].reshape(stream.shape)
        assert any(torch.allclose(read, one.reshape(stream.shape), atol=1e-5) for one in along), path


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "opt-350m"])  # whose norms are behind the sum
def test_what_modules_do_is_found_out(name: str) -> None:
    model = tiny_model(name)
    found = found_by_doing(model)
    modules = list(places_of(model, LAYERS - 1))
    gates = {path for path in found.modules if path.endswith(("shared_expert_gate", "router"))}
    assert found.modules.keys() - gates == {*modules}
    assert all(found.place(path) == architecture_of(model).place(path) for path in modules)


@pytest.mark.parametrize(("name", "norm"), [("llama", "input_layernorm"), ("gemma2", UNKNOWN)])
def test_norms_of_a_model_that_is_in_no_table_are_known_where_they_are_llamas(
    name: str, norm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unheard = {kind: entry.model_copy(update={"models": ()}) for kind, entry in table().items()}
    monkeypatch.setattr(architectures, "table", lambda: unheard)
    assert Places(tiny_model(name)).of("model.layers.1.self_attn.q_proj") == Place(1, False, norm)


def test_what_is_told_and_is_not_so_is_doubted() -> None:
    model = tiny_model("gpt2")
    pair = Pair(name="p", model="m", target_modules=("c_attn", "attn.c_proj"))
    assert not [*doubts(model, pair)]
    wrong = Architecture(readers={"attn.c_proj": None, "attn.c_attn": None}, writers={"mlp.c_fc": None})
    pair = pair.model_copy(update={"architecture": wrong})
    (told,) = doubts(with_architecture(model, pair), pair)
    assert told.startswith(
        "target module 'attn.c_proj' reads the residual stream by what is told of this architecture, b"
    )
    assert "but writes to the residual stream" in told and "architecture: {readers: {attn.c_attn: ln_1, mlp.c_f" in told


def adapted(model: Any, rank: int = 4) -> Any:
    """The model with a fresh adapter on the modules of its architecture's attention."""
    torch.manual_seed(1)
    modules = list(architecture_of(model).target_modules)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules=modules)
    return add_adapter(model, config).eval()


@pytest.mark.parametrize("name", KNOWN)
def test_sails_starts_where_no_logit_changes_and_writes_and_reads_its_basis(name: str) -> None:
    model = tiny_model(name)
    before = model(IDS).logits
    wrapped = adapted(model)
    basis = torch.linalg.qr(torch.randn(WIDTH, 4, generator=torch.Generator().manual_seed(0))).Q
    initialise(wrapped, {"layers.0": basis}, settings=Placement(), seed=0)
    assert torch.equal(wrapped(IDS).logits, before)
    wrote, places = {False: 0, True: 0}, Places(model)
    for path, module in adapted_modules(wrapped):
        place = places.of(path)
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        if place.layer == (0 if place.writes else 1):
            wrote[place.writes] += 1
            assert torch.allclose(up if place.writes else down.T, LORA_NORM * basis)
            assert not (down if place.writes else up).any()
    assert wrote[True] and wrote[False]


@pytest.mark.parametrize("name", ASKED)
def test_what_training_adds_to_a_writer_is_in_its_span_and_stock_peft_loads_it(name: str, tmp_path: Path) -> None:
    model = tiny_model(name)
    basis = torch.linalg.qr(torch.randn(WIDTH, 4, generator=torch.Generator().manual_seed(0))).Q
    wrapped = adapted(model)
    initialise(wrapped, {"layers.0": basis}, settings=Placement(), seed=0)
    (path, writer), *_ = [(path, one) for path, one in adapted_modules(wrapped) if Places(model).of(path).writes]
    vectors = torch.randn(3, writer.lora_A["default"].in_features)
    without = writer(vectors)
    writer.lora_A["default"].weight.data.normal_()  # as training would
    added = writer(vectors) - without
    assert added.abs().max() > 0.01
    assert torch.allclose(added @ basis @ basis.T, added, atol=1e-5), path
    expected = wrapped(IDS).logits
    wrapped.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(tiny_model(name), str(tmp_path)).eval()
    assert torch.equal(again(IDS).logits, expected)


def test_a_vision_tower_is_left_alone() -> None:
    model = tiny_model("gemma3")
    towers = [name for name, _ in model.named_modules() if name.endswith("q_proj") and "vision" in name]
    assert len(towers) == LAYERS  # it has as many layers, with modules of the same names
    names = [name for name, _ in adapted_modules(adapted(model))]
    assert names and all(name.startswith("model.language_model.layers.") for name in names)
    assert decoder_layers(model) is model.model.language_model.layers


# --- the table, and what pairs say besides ------------------------------------------------------------------------


def test_every_type_is_in_the_table_once_unless_its_config_tells() -> None:
    entries = [(kind, entry.when) for entry in table().values() for kind in entry.models]
    assert len([kind for kind, when in entries if not when]) == len({kind for kind, when in entries if not when})
    tried = {config["model_type"] for config in CONFIGS.values()}
    assert {kind for kind, _ in entries} == tried | {"mamba2", "falcon_mamba"}
    assert named({"model_type": "opt"}) == "opt" and named({"model_type": "unheard"}) is None
    assert named({"model_type": "opt", "do_layer_norm_before": False}) == "opt-350m"


def test_a_pair_tells_the_modules_of_a_model_that_is_in_no_table() -> None:
    own = Architecture(
        layers="transformer.blocks",
        readers={"attn.Wqkv": "norm_1"},
        writers={"attn.out_proj": None},
    )
    found = architecture({"model_type": "unheard"}, own)
    assert found.place("attn.Wqkv") == (False, "norm_1") and found.place("attn.out_proj") == (True, None)
    assert found.place("attn.q_proj") is None  # no Llama
    assert found.target_modules == ("attn.Wqkv", "attn.out_proj")
    assert architecture({"model_type": "unheard"}, None).place("attn.q_proj") == (False, "input_layernorm")


def test_a_pair_adds_to_what_the_table_has_and_changes_it() -> None:
    own = Architecture(readers={"mlp.o_proj": "mine"}, writers={"*.q_proj": None})
    found = architecture({"model_type": "llama"}, own)
    assert found.place("mlp.o_proj") == (False, "mine") and found.place("self_attn.o_proj") == (True, None)
    assert found.place("self_attn.q_proj") == (True, None)
    like = architecture({"model_type": "unheard"}, Architecture(like="gpt2"))
    assert like.place("attn.c_attn") == (False, "ln_1") and like.target_modules == ("c_attn", "attn.c_proj")
    with pytest.raises(UserError, match="unknown architecture 'gpt-2'; did you mean gpt2"):
        architecture({"model_type": "unheard"}, Architecture(like="gpt-2"))
    with pytest.raises(ValueError, match="'readers' and 'writers'"):
        Architecture(readers={"a": None}, writers={"a": None})


def test_what_a_pair_says_goes_with_its_model() -> None:
    pair = Pair(name="p", model="m", architecture=Architecture(layers="transformer.h", readers={"attn.c_attn": None}))
    model = with_architecture(tiny_model("gpt2"), pair)
    wrapped = adapted(model)
    assert Places(wrapped).of("base_model.model.transformer.h.1.attn.c_attn") == Place(1, False, None)
    assert Places(wrapped).of("base_model.model.transformer.h.0.attn.c_proj") == Place(0, True, None)
    wrong = Pair(name="p", model="m", architecture=Architecture(layers="transformer.blocks"))
    with pytest.raises(UserError, match=r"no list of 2 decoder layers at transformer\.blocks .*'architecture: {layers"):
        decoder_layers(with_architecture(model, wrong))


@pytest.mark.parametrize(
    ("name", "module", "told"),
    [
        ("llama", "lm_head", "module 'lm_head' reads or writes the residual stream; known of a llama model are down_"),
        ("llama", "model.layers.1.mlp.gate_up_proj", r"architecture: {readers: {mlp.gate_up_proj: input_layernorm}}"),
        ("mamba", "backbone.layers.0.mixer.in_proj", "mamba model can start from a basis: a state-space model has no"),
    ],
)
def test_a_module_on_neither_side_is_an_error_that_says_what_to_do(name: str, module: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Places(tiny_model(name)).of(module)
