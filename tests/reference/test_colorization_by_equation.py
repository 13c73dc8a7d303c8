"""Colorization against the paper's equations in plain loops, its view, and its answers as images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Features, Options, Preprocessor, UserError, View
from untaught.encoders.timm import vit_mini
from untaught.methods import Colorization
from untaught.modalities.image import IMAGE
from untaught.ops.colour_bins import annealed_mean, bins, rebalancing, soft_encoded
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.lab import to_grey, to_lab

ROWS, SIDE = 3, 8
STATISTICS: Options = {"mean": [0.5, 0.45, 0.4], "std": [0.2, 0.25, 0.3]}


class Two(Encoder):
    """Maps at half and a quarter of the side."""

    width, offers, stride = 6, frozenset({"maps"}), 4

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        first = self.first(view.x).relu()
        second = self.second(first).relu()
        return Features(pooled=second.mean((2, 3)), maps=[first, second])


def prep(**settings: Any) -> Preprocessor:
    return Preprocessor(IMAGE, {"size": SIDE, "side": SIDE, "channels": 3, "bits": 8, "preset": "small"} | settings, STATISTICS)


def view(pixels: Tensor | None = None, own: Preprocessor | None = None, **options: Any) -> View:
    """The view of random images (or of these), without augmentation unless asked."""
    own = own or prep()
    if pixels is None:
        pixels = torch.randint(256, (ROWS, own.settings["channels"], SIDE, SIDE), generator=torch.Generator().manual_seed(0)).byte()
    known = own.presets()["lightness"] | {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0} | options
    batch = {"pixels": pixels, "aspect": torch.ones(len(pixels)), "index": torch.arange(len(pixels))}
    return IMAGE.views["lightness"](batch, CounterRNG(0, 0, batch["index"], 0), known, own)


def built(one: View, encoder: Encoder | None = None, statistics: Options = STATISTICS, **knobs: Any) -> Colorization:
    torch.manual_seed(0)
    return Colorization(encoder or Two(), Facts(ROWS, {"lightness": one}, statistics), **{"width": 8, **knobs})


# ------------------------------------------------------------------------------------------------------------------ bins


def test_the_bins_are_the_cells_of_a_grid_of_10_that_hold_a_colour_of_srgb() -> None:
    levels = torch.linspace(0, 1, 52)  # of the whole cube, not of its surface: no other cells
    cube = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(1)
    inside = to_lab(cube.t()[:, :, None, None]).flatten(1)[:, 1:]
    cells = {tuple(cell) for cell in (10 * (inside / 10).round()).long().tolist()}
    found = {tuple(cell) for cell in bins().long().tolist()}
    assert cells <= found
    assert len(found) == len(bins()) == 261
    assert len(found - cells) < 8  # corners that a coarse grid of the cube misses
    assert found >= {(0, 0), (80, 70), (-90, 80), (80, -110)}  # white, red, green, blue


def test_a_colour_is_encoded_by_its_nearest_bins() -> None:
    centres = bins()
    ab = 40 * torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    index, weight = soft_encoded(ab, centres, 5, 5.0)
    for (a, b), found, weights in zip(ab.tolist(), index.tolist(), weight.tolist(), strict=True):
        distance = [math.hypot(a - x, b - y) for x, y in centres.tolist()]
        nearest = sorted(range(len(distance)), key=distance.__getitem__)[:5]
        assert sorted(distance[i] for i in found) == pytest.approx([distance[i] for i in nearest], abs=1e-4)
        gauss = [math.exp(-(distance[i] ** 2) / (2 * 25)) for i in found]
        assert weights == pytest.approx([g / sum(gauss) for g in gauss], abs=1e-4)


def test_colours_far_outside_the_gamut_have_finite_weights() -> None:
    _, weight = soft_encoded(torch.tensor([[500.0, -500.0]]), bins(), 5, 0.1)
    torch.testing.assert_close(weight.sum(), torch.tensor(1.0))


def test_weights_of_pixels_are_equation_4() -> None:
    centres = bins()[100:130]
    counts = torch.randint(0, 5000, (30,), generator=torch.Generator().manual_seed(0))
    share = [(int(count) + 1) / (int(counts.sum()) + 30) for count in counts]
    kernel = [[math.exp(-(math.dist(p, q) ** 2) / 50) for q in centres.tolist()] for p in centres.tolist()]
    mass = [sum(kernel[i][j] for i in range(30)) for j in range(30)]
    smoothed = [sum(kernel[i][j] / mass[j] * share[j] for j in range(30)) for i in range(30)]
    inverse = [1 / (0.5 * p + 0.5 / 30) for p in smoothed]
    expected = sum(p * w for p, w in zip(smoothed, inverse, strict=True))
    found = rebalancing(counts, centres, 5.0, 0.5)
    assert found.tolist() == pytest.approx([w / expected for w in inverse], rel=1e-5)
    assert sum(p * w for p, w in zip(smoothed, found.tolist(), strict=True)) == pytest.approx(1)
    assert rebalancing(counts, centres, 5.0, 1.0).tolist() == pytest.approx([1.0] * 30)
    assert rebalancing(torch.zeros_like(counts), centres, 1e-3, 0.5).tolist() == pytest.approx([1.0] * 30)


def test_the_annealed_mean_is_equation_5() -> None:
    centres = bins()[:7]
    logits = torch.randn(1, 7, 1, 2, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.38):
        found = annealed_mean(logits, centres, temperature)
        for at in range(2):
            chances = logits[0, :, 0, at].softmax(0).tolist()
            sharp = [math.exp(math.log(chance) / temperature) for chance in chances]
            for axis in range(2):
                mean = sum(s / sum(sharp) * float(centre[axis]) for s, centre in zip(sharp, centres, strict=True))
                assert float(found[0, axis, 0, at]) == pytest.approx(mean, rel=1e-4, abs=1e-4)
    coldest = annealed_mean(logits, centres, 1e-4)
    assert torch.equal(coldest[0, :, 0, 0], centres[logits[0, :, 0, 0].argmax()])


# ------------------------------------------------------------------------------------------------------------------ loss


def test_the_loss_is_equation_2_over_the_positions_of_coloured_images() -> None:
    one = view()
    assert one.target is not None
    one.target[1] *= 0.01  # a grey image: no loss, but a position of the mean
    method = built(one).eval()
    method.counts += torch.randint(0, 99, method.counts.shape)
    loss = method([one], 0.0)["cross_entropy"].item()
    logits, centres = method.score(one), method.centres.tolist()
    share = ((method.counts + 1) / (method.counts + 1).sum()).double()
    kernel = torch.tensor([[math.exp(-(math.dist(p, q) ** 2) / 50) for q in centres] for p in centres], dtype=torch.float64)
    smoothed = (kernel / kernel.sum(0)) @ share
    weights = 1 / (0.5 * smoothed + 0.5 / len(centres))
    weights /= (weights * smoothed).sum()
    total = 0.0
    for image in (0, 2):
        for row in range(2):
            for column in range(2):
                ab = one.target[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean((1, 2)).tolist()
                distance = [math.dist(ab, centre) for centre in centres]
                near = sorted(range(len(centres)), key=distance.__getitem__)[:5]
                gauss = [math.exp(-(distance[i] ** 2) / 50) for i in near]
                log = logits[image, :, row, column].log_softmax(0).tolist()
                own = -sum(g / sum(gauss) * log[i] for g, i in zip(gauss, near, strict=True))
                total += float(weights[near[0]]) * own / (ROWS * 4)
    assert loss == pytest.approx(total, rel=1e-4)


def test_colours_are_counted_once_a_step_and_kept_in_checkpoints() -> None:
    one = view()
    assert one.target is not None
    one.target[1] = 0
    method = built(one)
    for _ in range(2):  # two micro-batches
        method([one], 0.0)
    assert method.counts.sum() == 0
    method.after_step(0.0)
    assert method.counts.sum() == 2 * 2 * 4
    method([one], 0.0)
    method.after_step(0.0)
    assert method.counts.sum() == 3 * 2 * 4, "of all steps so far"
    assert "counts" in method.state_dict()
    assert method.counts[(method.centres == 0).all(1)] < 24  # other bins than that of grey


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_predictions_have_the_finest_map_of_the_stride(stride: int) -> None:
    one = view()
    assert built(one, stride=stride).score(one).shape == (ROWS, 261, *[4 if stride <= 2 else 2] * 2)


def test_a_colour_has_no_more_neighbours_than_there_are_bins() -> None:
    assert built(view(), neighbours=261)([view()], 0.0)["cross_entropy"].isfinite()
    with pytest.raises(UserError, match="neighbours=262: there are 261 bins of colours; choose as many at most"):
        built(view(), neighbours=262)


def test_a_vit_predicts_at_its_tokens() -> None:
    one = view()
    method = built(one, vit_mini(size=SIDE, patch_size=2, embed_dim=16, depth=1, num_heads=1))
    assert method.score(one).shape == (ROWS, 261, 4, 4)
    assert method.eval().solve([one]).shape == (ROWS, 2, SIDE, SIDE)


def test_the_answer_is_the_annealed_mean_at_every_pixel() -> None:
    one = view()
    method = built(one).eval()
    assert one.target is not None
    answer = method.solve([one])
    assert answer.shape == one.target.shape
    coarse = annealed_mean(method.score(one), method.centres, 0.38)
    torch.testing.assert_close(answer, nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear"))


# ------------------------------------------------------------------------------------------------------------------ view


def test_the_view_is_grey_and_its_target_the_colours_of_the_same_pixels() -> None:
    pixels = torch.randint(256, (ROWS, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).byte()
    one = view(pixels)
    mean, std = (torch.tensor(STATISTICS[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(one.x * std + mean, to_grey(pixels / 255).expand(-1, 3, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(one.target, to_lab(pixels / 255)[:, 1:], atol=2e-3, rtol=0)


def test_colours_follow_crops_and_flips() -> None:
    pixels = torch.randint(256, (ROWS, 3, 16, 16), generator=torch.Generator().manual_seed(1)).byte()
    own = prep(side=16)
    options: Any = {"scale": (0.3, 0.6), "flip": 0.5}
    cropped = view(pixels, own, **options)
    whole = IMAGE.views["light"](
        {"pixels": pixels, "aspect": torch.ones(ROWS), "index": torch.arange(ROWS)},
        CounterRNG(0, 0, torch.arange(ROWS), 0),
        own.presets()["light"] | {"ratio": (1.0, 1.0)} | options,
        own,
    )
    mean, std = (torch.tensor(STATISTICS[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(cropped.target, to_lab((whole.x * std + mean).clamp(0, 1))[:, 1:])


def test_a_target_in_its_place_draws_the_image() -> None:
    pixels = torch.randint(256, (ROWS, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).byte()
    one, pretext = view(pixels), IMAGE.pretexts["lightness"]
    assert one.target is not None
    drawn = pretext.render(one, {}, prep())
    assert np.abs(drawn.astype(int) - pixels.permute(0, 2, 3, 1).numpy()).max() <= 1
    grey = pretext.render(View(one.x, target=torch.zeros_like(one.target)), {}, prep())
    assert np.ptp(grey, 3).max() == 0
    measured = pretext.measure(one, one.target, {}, prep())
    assert measured["ab_rmse"].max() < 1e-3
    assert measured["ciede2000"].max() < 1e-3
    assert np.allclose(measured["colourfulness"], measured["true_colourfulness"])
    worse = pretext.measure(one, torch.zeros_like(one.target), {}, prep())
    assert worse["colourfulness"].max() < 0.01
    assert worse["ab_rmse"] == pytest.approx(one.target.square().sum(1).mean((1, 2)).sqrt().numpy(), rel=1e-4)
    assert worse["ciede2000"].min() > 5


# ------------------------------------------------------------------------------------------------------------- bad input


def test_images_of_one_channel_are_refused() -> None:
    own = Preprocessor(IMAGE, prep(channels=1).settings, {"mean": [0.5], "std": [0.2]})
    with pytest.raises(UserError, match="images of 1 channel have no colours to predict"):
        view(own=own)


def test_grey_images_of_three_channels_are_refused() -> None:
    pixels = torch.randint(256, (ROWS, 1, SIDE, SIDE)).byte().expand(-1, 3, -1, -1)
    own = prep().fitted({"pixels": pixels})
    with pytest.raises(UserError, match="the images are all grey"):
        built(view(pixels, own), statistics=own.statistics)


def test_grey_images_among_coloured_ones_are_fine() -> None:
    pixels = torch.randint(256, (ROWS, 3, SIDE, SIDE)).byte()
    pixels[:2] = pixels[:2, :1]
    own = prep().fitted({"pixels": pixels})
    one = view(pixels, own)
    assert built(one[:2], statistics=own.statistics)([one], 0.0)["cross_entropy"].isfinite()


def test_views_without_colours_are_refused() -> None:
    with pytest.raises(UserError, match="reads the view lightness"):
        built(View(torch.zeros(2, 3, 8, 8)))
