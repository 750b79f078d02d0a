from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sails_eval.core.errors import UserError
from sails_eval.methods.subspace.basis import random_columns
from sails_eval.methods.subspace.recovery import load_planted, recovery, sin_theta

D, R = 40, 4


def basis(columns: int, seed: str = "a") -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(random_columns(D, columns, seed=seed)).Q
    return q.contiguous()


@pytest.mark.parametrize("m", [1, 3, R, 7])
def test_what_holds_the_planted_space_or_lies_in_it_scores_all_but_chance(m: int) -> None:
    whole = basis(R + 7)
    chance = max(m, R) / D
    turned = whole[:, :m] @ torch.linalg.qr(torch.randn(m, m)).Q  # the span counts, not its basis
    assert recovery(turned, whole[:, :R]) == pytest.approx(1 - chance, abs=1e-5)
    assert recovery(whole[:, R : R + m], whole[:, :R]) == pytest.approx(-chance, abs=1e-5)


@pytest.mark.parametrize("m", [2, 9])
def test_a_random_basis_scores_nothing_in_the_mean(m: int) -> None:
    scores = [recovery(basis(m, f"{i}"), basis(R)) for i in range(400)]
    mean = sum(scores) / len(scores)
    assert mean == pytest.approx(0, abs=0.02) and min(scores) < mean < max(scores)


def test_a_random_fill_adds_what_is_expected() -> None:
    planted, rank = basis(R), 9
    start = torch.linalg.qr(planted[:, :2] + 0.3 * basis(2, "b")).Q
    filled = []
    for i in range(400):
        columns = torch.cat([start, random_columns(D, rank - 2, seed=f"{i}")], dim=1)
        filled.append(recovery(torch.linalg.qr(columns).Q, planted))
    assert recovery(start, planted, filled_to=rank) == pytest.approx(sum(filled) / len(filled), abs=0.01)
    assert recovery(start, planted, filled_to=2) == recovery(start, planted)


def test_too_few_columns_are_as_far_off_as_the_angle_is_wide() -> None:
    whole = basis(R + 2)
    assert sin_theta(whole[:, : R + 1], whole[:, :R]) == pytest.approx(0, abs=1e-3)
    assert sin_theta(whole[:, R:], whole[:, :R]) == pytest.approx(1, abs=1e-5)
    assert sin_theta(whole[:, : R // 2], whole[:, :R]) == pytest.approx(0.5**0.5, abs=1e-5)
    turned = (0.8 * whole[:, :1] + 0.6 * whole[:, R : R + 1], whole[:, :1])  # one angle, of sine 0.6
    assert sin_theta(*turned) == pytest.approx(0.6, abs=1e-5)
    drawn = [basis(2 + 3, f"{i}") for i in range(400)]
    expected = sum(sin_theta(one, whole[:, :R]) ** 2 for one in drawn) / len(drawn)
    assert sin_theta(torch.zeros(D, 0), whole[:, :R], filled_to=5) ** 2 == pytest.approx(expected, abs=0.01)


def test_planted_subspaces_are_read_by_layer(tmp_path: Path) -> None:
    path = tmp_path / "planted.safetensors"
    save_file({"layers.2": basis(3).half(), "layers.1": basis(R)}, path)
    found = load_planted(path, D)
    assert list(found) == [1, 2] and torch.equal(found[1], basis(R)) and found[2].dtype == torch.float32


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        (None, "not a planted subspace"),
        ({"layer1": basis(2)}, "not a planted subspace, a safetensors file of layers.N"),
        ({"layers.1": basis(2)[:-1]}, r"layers.1 has shape \[39, 2\], expected \[40, r\]"),
        ({"layers.1": 2 * basis(2)}, "the columns of layers.1 are not orthonormal"),
    ],
)
def test_what_is_no_planted_subspace_is_an_error(
    tmp_path: Path, tensors: dict[str, torch.Tensor] | None, complaint: str
) -> None:
    path = tmp_path / "planted.safetensors"
    if tensors:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with pytest.raises(UserError, match=f"^{path}: {complaint}"):
        load_planted(path, D)
