"""The transformer's attention, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.transformer import Block, Transformer, attention


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, 2, n, d, generator=draw) for n, d in ((5, 8), (7, 8), (7, 3)))
    return q, k, v


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_pytorchs(masked: bool) -> None:
    q, k, v = qkv()
    mask = torch.rand(4, 1, 1, 7, generator=torch.Generator().manual_seed(1)) < 0.7 if masked else None
    if mask is not None:
        mask[..., 0] = True
    torch.testing.assert_close(attention(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def test_attention_in_autocast_stays_close() -> None:
    q, k, v = qkv()
    with torch.autocast("cpu", torch.bfloat16):
        said = attention(q, k, v)
    torch.testing.assert_close(said.float(), F.scaled_dot_product_attention(q, k, v), atol=0.03, rtol=0.03)


def test_a_block_is_pytorchs_with_norms_in_front() -> None:
    torch.manual_seed(0)
    own, theirs = Block(8, 2), nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    placed = {
        "self_attn.in_proj_weight": own.qkv.weight,
        "self_attn.in_proj_bias": own.qkv.bias,
        "self_attn.out_proj.weight": own.out.weight,
        "self_attn.out_proj.bias": own.out.bias,
        "linear1.weight": own.mlp[0].weight,
        "linear1.bias": own.mlp[0].bias,
        "linear2.weight": own.mlp[2].weight,
        "linear2.bias": own.mlp[2].bias,
        **{f"norm{i}.{name}": getattr(norm, name) for i, norm in ((1, own.norm1), (2, own.norm2)) for name in ("weight", "bias")},
    }
    with torch.no_grad():
        for i, value in enumerate(placed.values()):
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(i)))
    theirs.load_state_dict(placed)
    x, valid = torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([[5], [3], [4]])
    torch.testing.assert_close(own(x), theirs(x), atol=1e-5, rtol=1e-4)
    found, want = own(x, valid[:, None, None, :]), theirs(x, src_key_padding_mask=~valid)
    torch.testing.assert_close(found[valid], want[valid], atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing_of_what_is_real() -> None:
    torch.manual_seed(0)
    network, x = Transformer(16, 2, 4), torch.randn(3, 6, 16)
    valid = torch.ones(3, 6, dtype=torch.bool)
    valid[:, 4:] = False
    other = torch.where(valid.unsqueeze(2), x, torch.randn(3, 6, 16))
    torch.testing.assert_close(network(x, valid)[:, :4], network(other, valid)[:, :4])
    torch.testing.assert_close(network(x, valid)[:, :4], network(x[:, :4])[:, :4])
