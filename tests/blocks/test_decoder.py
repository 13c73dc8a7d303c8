"""The plain decoder: causal, reads its memory where that is valid."""

from __future__ import annotations

import torch

from untaught.blocks.decoder import Decoder


def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(16, depth=2, heads=4)


def test_nothing_that_comes_later_is_seen() -> None:
    x, memory = torch.randn(2, 6, 16, requires_grad=True), torch.randn(2, 3, 16, requires_grad=True)
    said = decoder()(x, memory)
    assert said.shape == x.shape
    for t in range(6):
        to_x, to_memory = torch.autograd.grad(said[:, t].square().sum(), (x, memory), retain_graph=True)
        assert not to_x[:, t + 1 :].any()
        assert to_x[:, : t + 1].abs().sum(2).gt(0).all()
        assert to_memory.abs().sum(2).gt(0).all()


def test_memory_is_read_where_it_is_valid_and_without_order() -> None:
    network, x, memory = decoder(), torch.randn(2, 6, 16), torch.randn(2, 3, 16)
    valid = torch.tensor([[True, True, False], [True, False, True]])
    want = network(x, memory, valid)
    torch.testing.assert_close(network(x, torch.where(valid.unsqueeze(2), memory, 50.0), valid), want)
    torch.testing.assert_close(network(x[:1], memory[:1, :2].flip(1)), want[:1])


def test_the_same_token_at_another_place_is_another() -> None:
    said = decoder()(torch.ones(1, 4, 16), torch.ones(1, 1, 16))
    assert not torch.allclose(said[0, 1], said[0, 3])
