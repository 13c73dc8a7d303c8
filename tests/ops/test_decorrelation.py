"""Covariance and std, against loops."""

from __future__ import annotations

import torch

from untaught.ops.decorrelation import covariance_energy, std, vicreg_terms


def test_covariance_energy_is_that_of_loops() -> None:
    z = torch.randn(6, 4, dtype=torch.float64)
    rows, width = z.shape
    mean = [sum(z[n, i] for n in range(rows)) / rows for i in range(width)]
    want = 0.0
    for i in range(width):
        for j in range(width):
            if i != j:
                want += (sum((z[n, i] - mean[i]) * (z[n, j] - mean[j]) for n in range(rows)) / (rows - 1)) ** 2
    torch.testing.assert_close(covariance_energy(z), torch.as_tensor(want / width))


def test_a_constant_shift_changes_nothing() -> None:
    z = torch.randn(20, 4)
    torch.testing.assert_close(covariance_energy(z + 5), covariance_energy(z), atol=1e-5, rtol=1e-4)


def test_spread_is_the_deviation_and_has_a_gradient_where_it_is_zero() -> None:
    z = torch.randn(9, 3)
    torch.testing.assert_close(std(z, 0.0), z.std(0))
    flat = torch.ones(5, 3, requires_grad=True)
    std(flat).sum().backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_stacked_embeddings_are_taken_one_by_one() -> None:
    a, b = torch.randn(3, 9, 4), 0.5 * torch.randn(3, 9, 4)
    torch.testing.assert_close(covariance_energy(a), torch.stack([covariance_energy(z) for z in a]))
    torch.testing.assert_close(std(a), torch.stack([std(z) for z in a]))
    each = torch.tensor([vicreg_terms(x, y) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(torch.stack(vicreg_terms(a, b)), each.mean(0))
