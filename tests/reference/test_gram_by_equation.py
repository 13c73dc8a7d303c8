"""Gram anchoring against DINOv3's equation in plain loops, and when its anchor is renewed."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from untaught.commands.request import PretrainArguments, resolve
from untaught.config.registry import method_class
from untaught.core import Facts, UserError, View
from untaught.encoders.timm import vit_mini
from untaught.methods import Gram
from untaught.methods.distillation.gram import gram

DRAWS = torch.Generator().manual_seed(0)


def cosine(x: Tensor, y: Tensor) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(float(a) ** 2 for a in x) * sum(float(b) ** 2 for b in y))


@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_is_the_squared_difference_of_all_cosines_of_a_sample(padded: bool) -> None:
    x, y = torch.randn(2, 4, 3, generator=DRAWS), torch.randn(2, 4, 5, generator=DRAWS)
    lengths = (4, 2) if padded else (4, 4)
    total, pairs = 0.0, 0
    for row, length in enumerate(lengths):
        for i in range(length):
            for j in range(length):
                total += (cosine(x[row, i], x[row, j]) - cosine(y[row, i], y[row, j])) ** 2
                pairs += 1
    valid = torch.arange(4) < torch.tensor(lengths).unsqueeze(1) if padded else None
    assert float(gram(x, y, valid)) == pytest.approx(total / pairs, rel=1e-4)


def built(**knobs: float) -> Gram:
    torch.manual_seed(0)
    return Gram(vit_mini(size=16, patch_size=4, embed_dim=8, num_heads=2, depth=1), Facts(4), **knobs)


def moved(method: Gram, progress: float) -> None:
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(0.1)
    method.after_step(progress)


def test_the_anchor_is_the_moving_average_at_the_start_and_at_every_refresh() -> None:
    method, view = built(start=0.5, refresh=0.2, momentum=0.9), View(torch.randn(2, 3, 16, 16, generator=DRAWS))
    first, average = method.encoder.model.pos_embed.clone(), method.encoder.model.pos_embed.clone()  # type: ignore[union-attr, operator]
    anchor = first.clone()
    for progress, renewed in (
        (0.0, False),
        (0.4, False),
        (0.5, True),
        (0.6, False),
        (0.71, True),
        (0.8, False),
        (0.95, True),
        (0.99, False),
    ):
        assert bool(method([view], progress)["gram"]) == (method.taken > 0)
        moved(method, progress)
        average = 0.9 * average + 0.1 * method.encoder.model.pos_embed  # type: ignore[union-attr, operator]
        anchor = average.clone() if renewed else anchor
        torch.testing.assert_close(method.anchor.network.model.pos_embed.data, anchor.data)  # type: ignore[union-attr]
    again = built(start=0.5, refresh=0.2, momentum=0.9)
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    assert again.taken == method.taken == 3
    moved(again, 0.99)
    torch.testing.assert_close(again.anchor.network.model.pos_embed.data, anchor.data)  # type: ignore[union-attr]


def test_without_refresh_the_first_snapshot_is_kept() -> None:
    method = built(start=0.2, refresh=0.0)
    for progress in (0.1, 0.2, 0.9):
        moved(method, progress)
    assert method.taken == 1


def test_beside_another_method_it_trains_the_same_encoder() -> None:
    encoder = vit_mini(size=16, patch_size=4, embed_dim=8, num_heads=2, depth=1)
    crop = torch.randn(2, 3, 16, 16, generator=DRAWS)
    views = {"whole": View(crop), "global": View(crop)}
    torch.manual_seed(0)
    hybrid = method_class("simclr+gram:0.5")(encoder, Facts(4, views), **{"gram.start": 0.0})  # type: ignore[call-arg]
    assert method_class("simclr+gram:0.5").views == ("global", "global")
    made = [View(crop), View(crop.flip(3))]
    assert float(hybrid(made, 0.0)["gram.gram"]) == 0.0, "the anchor is the encoder"
    with torch.no_grad():
        encoder.model.pos_embed.add_(torch.randn(encoder.model.pos_embed.shape, generator=DRAWS))  # type: ignore[union-attr, operator]
    terms = hybrid(made, 0.0)
    own = hybrid.methods["gram"](made[:1], 0.0)["gram"]  # type: ignore[operator, index]
    assert float(terms["gram.gram"]) == pytest.approx(0.5 * float(own))
    assert hybrid.exported()["encoder"] is encoder


def test_alone_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gram is a term beside another method and learns nothing alone; combine them, as in dinov2\+gram"):
        resolve(PretrainArguments(torch.zeros(8, 3, 16, 16), "gram", out=tmp_path / "run"), False)


def test_it_is_a_term_beside_a_method_with_tokens() -> None:
    cls = method_class("dinov2+gram:2")
    assert cls.views == ("global_blocks", "global2_blocks", *("local",) * 8, "global")
    assert method_class("dino+gram").views == ("global", "global2", *("local",) * 6)  # which crops it shares
    assert "tokens" in cls.needs  # type: ignore[operator]
