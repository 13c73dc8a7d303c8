"""Spherical k-means in parts, and its corners."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops import kmeans
from untaught.ops.kmeans import spherical_kmeans


def around(count: int) -> tuple[Tensor, Tensor]:
    """Directions near three axes, and which axis each is near."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(count) % 3
    return F.normalize(torch.eye(3)[axis] + 0.2 * torch.randn(count, 3, generator=generator)), axis


@pytest.mark.parametrize("iterations", [1, 3])
def test_it_is_the_algorithm_in_loops(iterations: int) -> None:
    x = F.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))  # without kinds: samples change sides for long
    centroids = [x[i].clone() for i in range(4)]
    for _ in range(iterations):
        nearest = [max(range(4), key=lambda k, row=row: float(row @ centroids[k])) for row in x]
        for k in range(4):
            own = [x[i] for i in range(20) if nearest[i] == k]
            if own:
                centroids[k] = F.normalize(torch.stack(own).sum(0), dim=0)
    found, assigned = spherical_kmeans(x, x[:4].clone(), iterations)
    torch.testing.assert_close(found, torch.stack(centroids))
    assert assigned.tolist() == [max(range(4), key=lambda k, row=row: float(row @ centroids[k])) for row in x]


def test_it_finds_what_lies_together() -> None:
    x, axis = around(60)
    assert torch.equal(spherical_kmeans(x, x[:3].clone(), 5)[1], axis)


def test_parts_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = around(50)
    whole = spherical_kmeans(x, x[:4].clone(), 4)
    monkeypatch.setattr(kmeans, "PART", 28)  # seven rows
    for part, want in zip(spherical_kmeans(x, x[:4].clone(), 4), whole, strict=True):
        torch.testing.assert_close(part, want)


def test_a_centroid_that_is_nearest_to_nothing_stays() -> None:
    x, far = around(12)[0], torch.tensor([-1.0, 0.0, 0.0])
    found, assigned = spherical_kmeans(x, torch.stack([x[0], x[1], x[2], far]), 3)
    assert torch.equal(found[3], far)
    assert 3 not in assigned
