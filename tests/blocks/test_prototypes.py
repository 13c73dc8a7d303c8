"""The head that ends in cosines to prototypes, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from untaught.blocks.prototypes import PrototypeHead, prototypes_for


@pytest.mark.parametrize("normed", [True, False])
def test_it_is_two_hidden_layers_a_bottleneck_and_cosines(normed: bool) -> None:
    torch.manual_seed(0)
    head, x = PrototypeHead(5, 8, 3, 6, normed), torch.randn(4, 2, 5)
    weight = {name: value for name, value in head.named_parameters() if value.ndim == 2}
    first, second, bottleneck, prototypes = weight.values()
    assert [tuple(w.shape) for w in weight.values()] == [(8, 5), (8, 8), (3, 8), (6, 3)]
    with torch.no_grad():
        for layer in (first, second, bottleneck):
            layer.mul_(30)  # so that GELU bends
    hidden = x.flatten(0, 1)
    for layer in (first, second):
        hidden = hidden @ layer.T
        if normed:
            hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    z = F.normalize(hidden @ bottleneck.T, dim=1)
    want = z @ (prototypes / prototypes.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(head(x), want.unflatten(0, (4, 2)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("rows", "count"), [(100, 1024), (50_000, 2500), (10_000_000, 65_536)])
def test_there_is_one_for_20_samples(rows: int, count: int) -> None:
    assert prototypes_for(rows) == count
