"""Inpainting against the paper's equations in plain loops, its view, and its answers as images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.core import Encoder, Facts, Options, Preprocessor, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.timm import vit_mini
from untaught.methods import Inpainting
from untaught.methods.reconstruction.inpainting import Discriminator, EachChannel
from untaught.modalities.image import IMAGE
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.paste import pasted
from untaught.training.optim import parameter_groups

ROWS, SIDE = 3, 32
STATISTICS: Options = {"mean": [0.5, 0.45, 0.4], "std": [0.2, 0.25, 0.3]}
PREP = Preprocessor(IMAGE, {"size": SIDE, "side": SIDE, "channels": 3, "bits": 8, "preset": "small"}, STATISTICS)
KINDS = [{}, {"blocks": 5}]


def pixels(rows: int = ROWS, channels: int = 3) -> Tensor:
    return torch.randint(256, (rows, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()


def view(name: str = "hole", rows: int = ROWS, **options: Any) -> View:
    """Of random images, without augmentation."""
    known = PREP.presets()[name] | {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0} | options
    batch = {"pixels": pixels(rows), "aspect": torch.ones(rows), "index": torch.arange(rows)}
    return IMAGE.views[name](batch, CounterRNG(0, 0, batch["index"], 0), known, PREP)


def built(one: View, encoder: Encoder | None = None, **knobs: Any) -> Inpainting:
    torch.manual_seed(0)
    return Inpainting(encoder or ConvSmall(size=SIDE, width=4), Facts(ROWS, {"hole": one}, STATISTICS), **{"maps": 4, **knobs})


def small_vit() -> Encoder:
    return vit_mini(size=SIDE, patch_size=8, embed_dim=16, depth=1, num_heads=1)


def probability(value: float) -> float:
    return 1 / (1 + math.exp(-value))


# ------------------------------------------------------------------------------------------------------------------ loss


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_generator_minimises_equation_3(kind: Options) -> None:
    one = view(**kind)
    method = built(one).eval()
    terms = method.turn("generator", [one], 0.0)
    assert one.target is not None
    assert one.meta is not None
    assert one.target_valid is not None
    painted = method.paint(one).detach()
    total, side = 0.0, one.target.shape[-1]
    for image in range(ROWS):
        for channel, (mean, std) in enumerate(zip(STATISTICS["mean"], STATISTICS["std"], strict=True)):
            for row in range(side):
                for column in range(side):
                    true = 2 * (float(one.target[image, channel, row, column]) * std + mean) - 1
                    hidden, counts = bool(one.meta["hole"][image, 0, row, column]), bool(one.target_valid[image, 0, row, column])
                    weight = 1.0 if hidden else 10.0 * counts
                    total += weight * (float(painted[image, channel, row, column]) - true) ** 2
    assert terms["reconstruction"].item() == pytest.approx(0.999 * total / one.target.numel(), rel=1e-4)
    chances = [probability(value) for value in method.discriminator(painted).tolist()]
    assert terms["adversarial"].item() == pytest.approx(0.001 * -sum(math.log(chance) for chance in chances) / ROWS, rel=1e-4)


def test_the_discriminator_tells_the_part_from_what_is_painted() -> None:
    one = view()
    method = built(one).eval()
    terms = method.turn("discriminator", [one], 0.0)
    assert one.target is not None
    real = [probability(value) for value in method.discriminator(method.scaled(one.target)).tolist()]
    painted = [probability(value) for value in method.discriminator(method.paint(one)).tolist()]
    loss = -sum(math.log(chance) for chance in real) / ROWS - sum(math.log(1 - chance) for chance in painted) / ROWS
    assert terms["discriminator"].item() == pytest.approx(loss, rel=1e-4)
    right = sum(chance > 0.5 for chance in real) + sum(chance < 0.5 for chance in painted)
    assert terms["discriminator_accuracy"].item() == pytest.approx(right / (2 * ROWS))
    assert not terms["discriminator_accuracy"].requires_grad


def test_the_discriminator_learns_ten_times_slower() -> None:
    method = built(view())
    scale = {group["player"]: group.get("lr_scale", 1.0) for group in parameter_groups(method, 0.0)}
    assert scale == {"discriminator": 0.1, "generator": 1.0}


def test_the_channel_wise_layer_connects_all_positions_of_one_channel() -> None:
    layer = EachChannel(2, (2, 3))
    x = torch.randn(4, 2, 2, 3)
    assert torch.equal(layer(x), x)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    found = layer(x).detach()
    for channel in range(2):
        for to in range(6):
            own = sum(float(x[0, channel].flatten()[of] * layer.weight[channel, of, to].detach()) for of in range(6))
            assert float(found[0, channel].flatten()[to]) == pytest.approx(own + float(layer.bias[channel, to].detach()), abs=1e-5)


@pytest.mark.parametrize("side", [1, 4, 13, 16, 64])
def test_any_hole_can_be_discriminated(side: int) -> None:
    assert Discriminator(3, side, 2)(torch.zeros(2, 3, side, side)).shape == (2,)


def test_the_discriminator_of_64_pixels_is_that_of_the_authors_code() -> None:
    network = Discriminator(3, 64, 64).layers
    assert [tuple(layer.weight.shape[:2]) for layer in network if isinstance(layer, torch.nn.Conv2d)] == [
        (64, 3),
        (128, 64),
        (256, 128),
        (512, 256),
    ]
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network) == 3
    assert network[-1].in_features == 512 * 4 * 4


# ------------------------------------------------------------------------------------------------------------------ view


def test_the_hole_is_central_and_its_border_visible() -> None:
    one, whole = view(), view("light")
    assert one.target is not None
    assert one.meta is not None
    assert torch.equal(one.target, whole.x[:, :, 8:24, 8:24])
    hidden = torch.zeros(ROWS, 1, SIDE, SIDE, dtype=torch.bool)
    hidden[:, :, 10:22, 10:22] = True  # 7 of 128 pixels are 1.75 of 32
    assert torch.equal(one.x, whole.x.masked_fill(hidden, 0.0))
    assert torch.equal(one.meta["hole"], hidden[:, :, 8:24, 8:24])
    assert one.target_valid is not None
    assert one.target_valid.all()
    assert torch.equal(pasted(one.x, one.target, one.meta["hole"]), whole.x)


def test_blocks_lie_anywhere_and_hide_at_most_their_area() -> None:
    one, whole = view(rows=300, blocks=4), view("light", rows=300)
    assert one.meta is not None
    hidden = one.meta["hole"]
    assert torch.equal(one.x, whole.x.masked_fill(hidden, 0.0))
    assert torch.equal(one.target, whole.x)  # type: ignore[arg-type]
    assert torch.equal(one.target_valid, hidden)  # type: ignore[arg-type]
    share = hidden.float().mean((1, 2, 3))
    assert share.max() <= 0.25
    assert share.mean() > 0.15
    assert hidden.any(0).float().mean() > 0.95
    assert len(hidden.unique(dim=0)) > 290


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_encoder_does_not_see_the_hole(kind: Options) -> None:
    one = view(**kind)
    method = built(one).eval()
    first = method.paint(one)
    assert one.target is not None
    one.target += 5 * one.meta["hole"]  # type: ignore[index]
    assert torch.equal(method.paint(one), first)


# --------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("encoder", [None, small_vit], ids=["conv", "vit"])
def test_the_answer_fills_the_hole_and_leaves_the_rest(kind: Options, encoder: Any) -> None:
    one = view(**kind)
    method = built(one, encoder and encoder()).eval()
    answer, pretext = method.solve([one]), IMAGE.pretexts["hole"]
    assert one.target is not None
    assert one.meta is not None
    hidden = one.meta["hole"].expand_as(answer)
    assert answer.shape == one.target.shape
    assert torch.equal(answer[~hidden], one.target[~hidden])
    torch.testing.assert_close(method.scaled(answer)[hidden], method.paint(one)[hidden])
    drawn = pretext.render(View(one.x, target=answer, meta=one.meta), {}, PREP)
    truth = pretext.render(one, {}, PREP)
    assert np.array_equal(truth, pixels().permute(0, 2, 3, 1).numpy())
    where = pasted(torch.zeros(ROWS, 1, SIDE, SIDE), torch.ones_like(answer[:, :1]), one.meta["hole"])
    everywhere = where.bool().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.where(everywhere, 0, drawn), np.where(everywhere, 0, truth))
    assert (drawn != truth).any()


def test_psnr_is_of_the_hole() -> None:
    one, pretext = view(), IMAGE.pretexts["hole"]
    assert one.target is not None
    assert one.meta is not None
    std = torch.tensor(STATISTICS["std"]).view(3, 1, 1)
    true = (one.target * std + torch.tensor(STATISTICS["mean"]).view(3, 1, 1)).clamp(0, 1)
    off = torch.where(true > 0.5, true - 0.1, true + 0.1)
    answer = (off - torch.tensor(STATISTICS["mean"]).view(3, 1, 1)) / std
    answer = torch.where(one.meta["hole"], answer, torch.full_like(answer, 9.0))
    assert pretext.measure(one, answer, {}, PREP)["psnr"] == pytest.approx([20.0] * ROWS, abs=1e-3)


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 1.5}, "side=1.5: the hole would be larger than the image"),
        ({"overlap": 0.6}, "overlap=0.6: must be from 0 to 0.5"),
        ({"area": 1.0}, "area=1.0: must be from 0.0001 to 0.9"),
        ({"blocks": -1}, "blocks=-1: must be from 0 to 64"),
    ],
    ids=str,
)
def test_bad_holes_are_refused(options: Options, message: str) -> None:
    assert message in str(IMAGE.check(PREP.presets()["hole"] | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 1.0, "overlap": 0.0}, "a hole of 32 x 32 pixels leaves nothing of images of 32 x 32; choose a smaller side"),
        ({"side": 0.1, "overlap": 0.1}, "a square of 3 pixels with a visible border of 3 has no hole"),
    ],
    ids=str,
)
def test_holes_of_nothing_and_of_everything_are_refused(options: Options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        view(**options)


def test_views_without_a_hole_are_refused() -> None:
    with pytest.raises(UserError, match="it reads the view hole"):
        built(view("light"))
