from typing import Any

import pytest
import torch

from sails_eval.methods.subspace.activations import (
    Moments,
    contrast_means,
    merged,
    moments,
    residual_streams,
    text_means,
)
from sails_eval.methods.subspace.contrast import Contrast, Text
from sails_eval.models.base import Base
from sails_eval.models.layers import decoder_layers

# answers of 1, 6 and 3 tokens after requests of 3, 2 and 0
TEXTS = [
    Text([2, 10, 11, 12, 13, 14, 15, 16, 17], answer=range(8, 9), request=range(3, 6)),
    Text([2, 20, 21, 22, 23, 24, 25, 26, 27, 28], answer=range(4, 10), request=range(1, 3)),
    Text([2, 30, 31, 32], answer=range(1, 4)),
]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
@pytest.mark.parametrize(
    ("positions", "counted"),
    [
        ("response", [[8], [4, 5, 6, 7, 8, 9], [1, 2, 3]]),
        ("first4", [[8], [4, 5, 6, 7], [1, 2, 3]]),
        ("all", [[3, 4, 5, 8], [1, 2, 4, 5, 6, 7, 8, 9], [1, 2, 3]]),
    ],
)
def test_a_texts_mean_is_over_its_counted_tokens_and_not_over_padding(
    testbed_base: Base, batch_size: int, positions: Any, counted: list[list[int]]
) -> None:
    model = testbed_base.model
    weight = {layer: torch.randn(128, 5, generator=torch.Generator().manual_seed(layer)) for layer in (0, 2)}

    def read(layer: int, vectors: torch.Tensor) -> torch.Tensor:
        return torch.relu(vectors @ weight[layer])

    batches = list(text_means(model, [0, 2], TEXTS, positions=positions, read=read, batch_size=batch_size))
    assert [len(batch[0]) for batch in batches] == [len(TEXTS[i : i + batch_size]) for i in range(0, 3, batch_size)]
    for layer in (0, 2):
        found = torch.cat([batch[layer] for batch in batches])
        for row, text, places in zip(found, TEXTS, counted, strict=True):  # one by one, without padding
            with torch.no_grad():
                states = model(torch.tensor([text.ids]), output_hidden_states=True).hidden_states
            assert torch.allclose(row, read(layer, states[layer + 1][0, places]).mean(0), rtol=1e-4, atol=1e-4)


def test_the_last_token_of_a_request_is_read_at_its_place(testbed_base: Base) -> None:
    (batch,) = text_means(testbed_base.model, [1], TEXTS[:2], positions="prompt_last")
    with torch.no_grad():
        state = testbed_base.model(torch.tensor([TEXTS[1].ids]), output_hidden_states=True).hidden_states[2]
    assert torch.allclose(batch[1][1], state[0, 2], atol=1e-4)


def test_pairs_are_contrasted_row_for_row_and_classes_by_themselves(testbed_base: Base) -> None:
    one, other = TEXTS[:2], TEXTS[1:]
    (pairs,) = contrast_means(testbed_base.model, [1], Contrast(one, other), positions="response")
    assert torch.equal(pairs[1, "difference"], pairs[1, "aligned"] - pairs[1, "unaligned"])
    classes = list(
        contrast_means(testbed_base.model, [1], Contrast(one, other[:1], paired=False), positions="response")
    )
    assert [list(batch) for batch in classes] == [[(1, "aligned")], [(1, "unaligned")]]
    assert torch.allclose(classes[0][1, "aligned"], pairs[1, "aligned"], atol=1e-5)


def test_moments_are_means_and_their_variance() -> None:
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) + 10
    found = moments([{(0, "aligned"): rows[:2]}, {(0, "aligned"): rows[2:], (1, "aligned"): rows[:1]}])
    assert torch.allclose(found[0, "aligned"].mean, rows.double().mean(0))
    assert torch.allclose(found[0, "aligned"].variance_of_mean, rows.double().var(0) / 7)
    assert found[1, "aligned"].variance_of_mean.isnan().all()
    both = merged(found, {(1, "aligned"): Moments.of(rows[1:])})
    assert torch.allclose(both[1, "aligned"].mean, found[0, "aligned"].mean)


def test_residual_streams_are_the_outputs_of_the_layers(testbed_base: Base) -> None:
    model, layers = testbed_base.model, decoder_layers(testbed_base.model)
    ids = torch.randint(6, 500, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    last: list[Any] = []
    handle = layers[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    with torch.no_grad():
        states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    handle.remove()
    with torch.no_grad():
        found = residual_streams(model, range(len(layers)), ids, mask)
    assert [layer for layer, _ in found] == list(range(len(layers)))
    for layer, stream in found[:-1]:
        assert torch.equal(stream, states[layer + 1])
    after_last_layer = last[0][0] if isinstance(last[0], tuple) else last[0]
    assert torch.equal(found[-1][1], after_last_layer)
    assert not torch.allclose(found[-1][1], states[-1])  # that one is taken after the final norm


def test_layers_after_the_last_one_of_interest_do_not_run(testbed_base: Base) -> None:
    layers = decoder_layers(testbed_base.model)
    hooks = [len(layer._forward_hooks) for layer in layers]
    ran: list[int] = []
    handles = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    ids = torch.tensor([[2, 10, 11]])
    found = residual_streams(testbed_base.model, [0, 2], ids, torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    assert [layer for layer, _ in found] == [0, 2]
    assert ran == [0, 1, 2]
    assert [len(layer._forward_hooks) for layer in layers] == hooks  # its own are gone too
