"""Encoders of table rows: any features, tokens by feature, and what is masked has no effect."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from untaught.config.registry import build_encoder
from untaught.core import UserError, View
from untaught.encoders.table import FTTransformer

FEATURES: list[dict[str, Any]] = [
    {"name": "age", "values": 1, "edges": [-1.0, 0.0, 1.0]},
    {"name": "colour", "values": 3, "edges": []},
    {"name": "price", "values": 1, "edges": [-2.0, 2.0]},
    {"name": "size", "values": 2, "edges": []},
]


def some(count: int = 6) -> torch.Tensor:
    """x (B,11): two numbers, two categories, each with its missing flag."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(count, 11)
    x[:, [0, 6]] = torch.randn(count, 2, generator=generator)
    x[torch.arange(count), 2 + torch.arange(count) % 3] = 1
    x[torch.arange(count), 8 + torch.arange(count) % 2] = 1
    return x


@pytest.mark.parametrize("name", ["mlp_table", "resnet_table", "ft_transformer"])
@pytest.mark.parametrize("features", [FEATURES, FEATURES[:1], FEATURES[1:2]], ids=["mixed", "one number", "one category"])
def test_any_features_become_a_vector(name: str, features: list[dict[str, Any]]) -> None:
    encoder = build_encoder(name, {"features": features}, {"width": "32"}).eval()
    x = some()[:, : sum(one["values"] + 1 for one in features)]
    x.requires_grad_(True)
    assert encoder(View(x)).shape == (6, 32)
    assert encoder.width == 32


def test_each_feature_is_a_token_that_depends_on_its_own_value() -> None:
    encoder = FTTransformer(features=FEATURES, width=16, depth=1, heads=2).eval()
    tokens, valid = encoder.embed(View(some()))
    assert tokens.shape == (6, 4, 16)
    assert valid is None
    starts = [0, 2, 6, 8, 11]
    for j in range(4):
        changed = some()
        changed[:, starts[j] : starts[j + 1]] = changed[:, starts[j] : starts[j + 1]].roll(1, 0)
        other, _ = encoder.embed(View(changed))
        same = [k for k in range(4) if torch.equal(tokens[:, k], other[:, k])]
        assert same == [k for k in range(4) if k != j]


def test_a_missing_value_has_one_token_and_an_unseen_category_none_of_the_categories() -> None:
    encoder = FTTransformer(features=FEATURES, width=16, depth=1, heads=2).eval()
    x = some(3)
    x[:, 0], x[:, 1] = torch.tensor([1.0, -3.0, 0.0]), 1.0
    tokens, _ = encoder.embed(View(x))
    assert torch.equal(tokens[0, 0], tokens[1, 0])
    torch.testing.assert_close(tokens[0, 0], encoder.missing[0])
    x = some(3)
    x[:, 2:5] = 0
    assert not encoder.embed(View(x))[0][:, 1].any()


def test_the_order_of_visible_tokens_does_not_matter_and_hidden_ones_have_no_effect() -> None:
    encoder = FTTransformer(features=FEATURES, width=16, depth=2, heads=2).eval()
    tokens, _ = encoder.embed(View(some()))
    whole = encoder.context(tokens, want=("pooled", "tokens"))
    order = torch.tensor([2, 0, 3, 1]).expand(6, -1)
    turned = encoder.context(tokens[:, order[0]], at=order, want=("pooled", "tokens"))
    torch.testing.assert_close(turned.pooled, whole.pooled, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(turned.tokens, whole.tokens[:, order[0]], atol=1e-5, rtol=1e-4)  # type: ignore[index]
    valid = torch.tensor([True, True, False, True]).expand(6, -1)
    one = encoder.context(tokens, valid, want=("pooled",)).pooled
    tokens = tokens.clone()
    tokens[:, 2] = 100.0
    torch.testing.assert_close(encoder.context(tokens, valid, want=("pooled",)).pooled, one, atol=1e-5, rtol=1e-4)


def test_what_ft_transformer_can_not_do_is_one_line() -> None:
    encoder = FTTransformer(features=FEATURES, width=16, depth=1, heads=2)
    with pytest.raises(UserError, match="columns have no order"):
        encoder.context(encoder.embed(View(some()))[0], causal=True)
    with pytest.raises(UserError, match=r"encoder.width=30: must be a multiple of its 4 heads"):
        build_encoder("ft_transformer", {"features": FEATURES}, {"width": "30"})
    with pytest.raises(UserError, match="use mlm"):
        encoder.shallower(0.5)
    assert encoder.words().parts(torch.zeros(1, 16))[1].shape == (2 + 3 + 1 + 2, 16)


def test_an_encoder_of_other_columns_takes_over_the_weights_of_shared_ones() -> None:
    new = {"name": "height", "values": 1, "edges": [-1.0, -0.5, 0.0, 0.5, 1.0]}  # more bins than any column before
    trained = FTTransformer(features=FEATURES, width=16, depth=2, heads=2).eval()
    other = FTTransformer(features=[FEATURES[3], new, FEATURES[0]], width=16, depth=2, heads=2).eval()
    before = other.embed(View(torch.zeros(1, 7)))[0][:, 1].clone()
    other.adopt(trained)
    x = some()
    columns = torch.cat([x[:, 8:11], torch.zeros(6, 2), x[:, :2]], 1)
    own, _ = other.embed(View(columns))
    old, _ = trained.embed(View(x))
    torch.testing.assert_close(own[:, [0, 2]], old[:, [3, 0]], rtol=0, atol=1e-6)
    torch.testing.assert_close(own[:1, 1], before, rtol=0, atol=0)  # the new column's is its own
    columns[:, 3:5] = 0
    shared = torch.tensor([[0, 2]]).expand(6, -1), torch.tensor([[3, 0]]).expand(6, -1)
    mine = other.context(own[:, [0, 2]], at=shared[0], want=("pooled",)).pooled
    theirs = trained.context(old[:, [3, 0]], at=shared[1], want=("pooled",)).pooled
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    x[:, 1] = 1  # missing, of a shared column
    assert torch.equal(trained.embed(View(x))[0][0, 0], other.missing[2])


def test_ft_transformer_is_exported_for_any_number_of_rows() -> None:
    encoder = FTTransformer(features=FEATURES, width=16, depth=1, heads=2).eval()

    class OfTensor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder(View(x))

    program = torch.export.export(OfTensor(), (some(2),), dynamic_shapes={"x": {0: torch.export.Dim("batch", max=64)}})
    torch.testing.assert_close(program.module()(some(6)), encoder(View(some(6))))
