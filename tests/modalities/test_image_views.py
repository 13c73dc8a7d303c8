"""Views of images: what every view promises, and their distributions against torchvision's transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as T
from pictures import SETTINGS, batch_of, make, noise, options, prep_of, ramp
from scipy import stats
from torch import Tensor

from untaught.core import UserError, View
from untaught.modalities.image import IMAGE, augment
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.warp import warp
from untaught.pipeline.view_pipeline import view_options

NAMES = [name for name in IMAGE.views if name not in ("rotations", "puzzle", "neighbours")]  # those are in test_image_tiles.py
SMALL = prep_of(size=32, side=32, preset="small")
KEYS = ("top", "left", "height", "width")  # of a crop, in torchvision
ALL_ON: dict[str, Any] = {"jitter": 0.8, "grey": 0.2, "blur": 0.5, "solarize": 0.5, "erase": 0.5, "noise": 0.1, "rotate": 20.0, "flip": 0.5}


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 throughout, as on a processor without bfloat16."""
    monkeypatch.setattr(augment, "has_bfloat16", lambda device: False)


# ---------------------------------------------------------------------------------------------------------- every view


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_shape_type_and_finite(name: str, channels: int, bits: int) -> None:
    view = make(name, batch_of(noise(4, channels=channels, bits=bits), 1.5))
    size = options(name)["size"]
    assert view.x.shape == (4, channels, size, size)
    assert view.x.dtype == torch.float32
    assert view.x.isfinite().all()
    assert view.meta is not None
    assert view.meta["affine"].shape == (4, 2, 3)


def fields(view: View) -> list[Tensor]:
    assert view.meta is not None
    return [x for x in (view.x, view.mask, view.target, view.meta["affine"]) if x is not None]


@pytest.mark.parametrize("own", [{}, ALL_ON], ids=["preset", "all on"])
@pytest.mark.parametrize("name", NAMES)
def test_a_sample_has_its_view_in_any_micro_batch(name: str, own: dict[str, Any]) -> None:
    batch = batch_of(noise(6), 1.3)
    whole = fields(make(name, batch, **own))
    parts = [fields(make(name, {key: value[part] for key, value in batch.items()}, **own)) for part in (slice(0, 1), slice(1, 6))]
    for all_at_once, *in_parts in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat(in_parts).float(), all_at_once.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("whole", "levels")])
def test_a_view_follows_from_seed_epoch_index_and_position(name: str) -> None:
    batch = batch_of(noise(1).expand(3, -1, -1, -1))
    key: dict[str, Any] = {"seed": 1, "epoch": 2, "position": 3}
    first = make(name, batch, **key).x
    assert torch.equal(first, make(name, batch, **key).x)
    assert not torch.equal(first[0], first[1])  # another index
    for part in key:
        assert not torch.equal(first, make(name, batch, **{**key, part: 9}).x)


def test_the_whole_view_has_nothing_random() -> None:
    batch = batch_of(noise(1).expand(2, -1, -1, -1))
    x = make("whole", batch, seed=1).x
    assert torch.equal(x[0], x[1])
    assert torch.equal(x, make("whole", batch, seed=2, epoch=3).x)


def test_views_leave_the_batch_as_it_was() -> None:
    batch = batch_of(noise(2))
    before = {key: value.clone() for key, value in batch.items()}
    for name in NAMES:
        make(name, batch, **ALL_ON)
    assert all(torch.equal(batch[key], before[key]) for key in batch)


def test_statistics_centre_and_scale() -> None:
    batch = batch_of(noise(64))
    x = make("whole", batch, statistics=IMAGE.fit(batch, prep_of()), size=36).x
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


@pytest.mark.parametrize("own", [{}, {"jitter": 1.0}], ids=["in one pass", "with jitter"])
def test_normalising_is_the_same_with_and_without_jitter(own: dict[str, Any]) -> None:
    batch, statistics = batch_of(noise(2)), {"mean": [0.1, 0.5, 0.7], "std": [0.2, 1.0, 3.0]}
    mean, std = (torch.tensor(statistics[key]).view(3, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(make("whole", batch, statistics=statistics, **own).x, (make("whole", batch, **own).x - mean) / std)


def test_deep_pictures_look_like_shallow_ones() -> None:
    pixels = noise(2)
    deep = make("global", batch_of((pixels.int() * 257).to(torch.uint16))).x
    torch.testing.assert_close(make("global", batch_of(pixels)).x, deep, atol=2e-2, rtol=0)  # bfloat16 has 8 bits


def test_bfloat16_is_as_fine_as_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(noise(32))
    monkeypatch.setattr(augment, "has_bfloat16", lambda device: True)
    fast = make("masked", batch).x
    monkeypatch.setattr(augment, "has_bfloat16", lambda device: False)
    error = (fast - make("masked", batch).x).abs()
    assert error.max() < 2 / 255
    assert error.mean() < 0.5 / 255


# ------------------------------------------------------------------------------------------------------------ geometry

GEOMETRY = {
    "global": {},
    "local": {},
    "upside down": {"flip_vertical": 1.0},
    "rotate": {"rotate": 30.0},
    "translate": {"translate": 0.1},
    "shear": {"shear": 20.0},
    "all": {"rotate": 30.0, "translate": 0.1, "shear": 10.0, "flip": 0.5, "flip_vertical": 0.5},
}


@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("own", GEOMETRY.values(), ids=GEOMETRY)
@pytest.mark.usefixtures("exact")
def test_the_affine_says_where_each_pixel_came_from(own: dict[str, Any], aspect: float) -> None:
    pixels = ((ramp(64, 16) + 1) / 2 * 65535).round().to(torch.int32).to(torch.uint16)
    view = make("global", batch_of(pixels, aspect), size=16, jitter=0.0, grey=0.0, blur=0.0, scale=(0.1, 0.4), **own)
    assert view.meta is not None
    said = torch.nn.functional.affine_grid(view.meta["affine"], [16, 1, 16, 16], align_corners=False).permute(0, 3, 1, 2)
    inside = (said.abs() < 0.9).all(1)
    error = ((2 * view.x[:, :2] - 1) - said).abs().amax(1)
    assert inside.float().mean() > 0.4
    assert error[inside].max() < 0.01  # a third of a stored pixel is 0.01


@pytest.mark.parametrize("aspect", [1.0, 1.5, 0.4])
@pytest.mark.parametrize("name", ["global", "local", "masked"])
def test_crops_are_torchvisions(name: str, aspect: float) -> None:
    given, count, side = options(name), 4000, 1000
    view_box = augment._box(torch.full((count,), aspect), CounterRNG(0, 0, torch.arange(count), 0), given)
    left, top, width, height = view_box.double().unbind(1)
    picture = torch.empty(1, side, round(side * aspect))
    torch.manual_seed(0)
    crop = T.RandomResizedCrop(8, given["scale"], given["ratio"])
    theirs = torch.tensor([[params[key] for key in KEYS] for params in (crop.make_params([picture]) for _ in range(count))])
    y, x, h, w = theirs.double().unbind(1)
    ours = {"area": width * height, "ratio": width * aspect / height, "left": left + width / 2, "top": top + height / 2}
    want = {"area": w * h / side**2 / aspect, "ratio": w / h, "left": (x + w / 2) / side / aspect, "top": (y + h / 2) / side}
    for key in ours:
        a, b = ((100 * x).round().numpy() for x in (ours[key], want[key]))  # torchvision rounds to whole pixels
        distance: Any = stats.ks_2samp(a, b)
        assert distance.statistic < 0.045, key  # 1.95 sqrt(2 / 4000): 1 in 1000


@pytest.mark.parametrize("aspect", [0.3, 1.0, 1.7])
def test_crops_stay_inside(aspect: float) -> None:
    box = augment._box(torch.full((2000,), aspect), CounterRNG(0, 0, torch.arange(2000), 0), options("global"))
    assert (box >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= 1 + 1e-6).all()


def test_flips_have_their_probability() -> None:
    count = 2000
    view = make("global", batch_of(noise(1, side=8).expand(count, -1, -1, -1)), size=8, flip=0.3, flip_vertical=0.8, jitter=0.0)
    assert view.meta is not None
    affine = view.meta["affine"]
    assert abs((affine[:, 0, 0] < 0).float().mean() - 0.3) < 0.05
    assert abs((affine[:, 1, 1] < 0).float().mean() - 0.8) < 0.05


@pytest.mark.parametrize(("height", "width"), [(48, 72), (72, 48), (48, 48)])
@pytest.mark.usefixtures("exact")
def test_the_whole_view_is_torchvisions_resize_and_central_crop(height: int, width: int) -> None:
    line = torch.linspace(0, 1, 96)
    smooth = torch.stack([line.expand(96, -1), line.view(-1, 1).expand(-1, 96), (line.view(-1, 1) * 6).sin().square() * line]).unsqueeze(0)
    original = T.functional.resize(smooth, [height, width])
    stored = (T.functional.resize(original, [60, 60]) * 65535).round().to(torch.int32).to(torch.uint16)
    view = make("whole", batch_of(stored, width / height), size=24)
    want = T.Compose([T.Resize(24), T.CenterCrop(24)])(original)
    torch.testing.assert_close(view.x, want, atol=0.02, rtol=0)


def test_a_picture_of_the_views_size_is_shown_as_it_is() -> None:
    pixels = noise(2, side=24)
    torch.testing.assert_close(make("whole", batch_of(pixels)).x, pixels / 255)


def test_a_blur_is_said_for_views_of_224_pixels_and_scaled_to_the_view() -> None:
    """A point spread by a Gaussian of 28 at 224 pixels is one of deviation 3 in a view of 24."""
    pixels = torch.zeros(1, 3, 24, 24, dtype=torch.uint8)
    pixels[:, :, 12, 12] = 255
    plain = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grey": 0.0, "solarize": 0.0}
    view = make("global", batch_of(pixels), settings=SETTINGS | {"side": 24}, blur=1.0, blur_sigma=(14.0, 14.0), **plain)
    spread = view.x[0, 0] / view.x[0, 0].sum()
    place = torch.arange(24.0)
    centre = (spread.sum(0) * place).sum()
    deviation = (spread.sum(0) * (place - centre).square()).sum().sqrt()
    assert deviation.item() == pytest.approx(14 * 24 / 224, rel=0.1)


def test_blur_and_turns_go_together() -> None:
    sharp = make("global", batch_of(noise(8)), rotate=20.0, jitter=0.0, grey=0.0, blur=0.0).x
    blurred = make("global", batch_of(noise(8)), rotate=20.0, jitter=0.0, grey=0.0, blur=1.0, blur_sigma=(20.0, 20.0)).x
    assert blurred.var((2, 3)).mean() < 0.7 * sharp.var((2, 3)).mean()
    torch.testing.assert_close(blurred.mean(), sharp.mean(), atol=0.02, rtol=0)


# ------------------------------------------------------------------------------------------------------------- presets

SIDE = 32


def torchvisions(name: str) -> T.Transform:
    """The paper's pipeline, in torchvision's words, for views of side 32 of the preset "photo"."""
    given = options(name, SETTINGS | {"size": SIDE})
    size = given["size"]
    steps: list[T.Transform] = [T.RandomResizedCrop(size, given["scale"], given["ratio"], antialias=True), T.RandomHorizontalFlip()]
    if given["jitter"]:
        steps += [T.RandomApply([T.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8), T.RandomGrayscale(0.2)]
    if given["blur"]:
        low, high = (sigma * size / 224 for sigma in given["blur_sigma"])
        steps.append(T.RandomApply([T.GaussianBlur(7, (max(low, 1e-3), high))], p=given["blur"]))
    if given["solarize"]:
        steps.append(T.RandomSolarize(0.5, p=given["solarize"]))
    return T.Compose(steps)


def photos(count: int) -> Tensor:
    """(B,3,48,48) uint8 of smooth colours with an edge, none near black or white."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (48, 48), mode="bicubic", align_corners=False).clamp(0, 1)
    return ((0.3 + 0.4 * smooth) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("name", ["global", "global2", "local", "masked", "global2_blocks", "multiblock"])
def test_presets_have_the_statistics_of_torchvisions_transforms(name: str) -> None:
    count = 600
    pixels = photos(count)
    ours = make(name, batch_of(pixels), size=options(name, SETTINGS | {"size": SIDE})["size"], patch=4)
    torch.manual_seed(0)
    transform = torchvisions(name)
    theirs = torch.stack([transform(picture) for picture in pixels.float() / 255])
    # both are random: of 600 views, the standard error of a spread is 0.03 of it
    figures = {
        "mean": lambda x: x.mean(),
        "spread of brightness over views": lambda x: x.mean((1, 2, 3)).std(),
        "contrast within a view": lambda x: x.mean(1).std((1, 2)).mean(),
        "colour": lambda x: x.std(1).mean(),
        "detail": lambda x: x.diff(dim=3).abs().mean(),
    }
    for key, figure in figures.items():
        assert abs(figure(ours.x) / figure(theirs) - 1) < (0.15 if key in ("colour", "detail") else 0.08), key


def test_local_views_are_smaller_and_closer() -> None:
    assert options("local", SETTINGS | {"size": 224})["size"] == 96
    assert options("local")["size"] == 8
    assert options("local")["scale"] == (0.05, 0.4)


# ------------------------------------------------------------------------------------------------------- single options


def still(name: str = "whole", count: int = 400, **own: Any) -> tuple[Tensor, Tensor]:
    """A view with only this option, and without."""
    batch = batch_of(photos(count))
    return make(name, batch, **own).x, make(name, batch).x


def test_solarize_turns_bright_pixels_around() -> None:
    changed, plain = still(solarize=1.0)
    torch.testing.assert_close(changed, torch.where(plain >= 0.5, 1 - plain, plain))
    some, _ = still(solarize=0.3)
    assert abs(((some - plain).abs() > 1e-3).flatten(1).any(1).float().mean() - 0.3) < 0.08


def test_noise_has_its_deviation() -> None:
    changed, plain = still(noise=0.05)
    assert abs((changed - plain).std() - 0.05) < 2e-3
    assert abs((changed - plain).mean()) < 1e-3


def test_erased_pixels_are_the_mean_colour_and_a_rectangle() -> None:
    batch = batch_of(photos(600))
    statistics = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    changed = make("whole", batch, statistics=statistics, erase=0.5).x
    erased = (changed - make("whole", batch, statistics=statistics).x).abs().amax(1) > 1e-4
    assert bool((changed.masked_select(erased.unsqueeze(1)) == 0).all())
    chosen = erased.flatten(1).any(1)
    assert abs(chosen.float().mean() - 0.5) < 0.08
    area = erased[chosen].float().mean((1, 2))
    assert abs(area.mean() - (0.02 + 0.33) / 2) < 0.03
    rows, columns = erased.any(2), erased.any(1)
    assert torch.equal(erased, rows.unsqueeze(2) & columns.unsqueeze(1))


def test_grey_views_have_one_colour() -> None:
    changed, _ = still(grey=0.4)
    grey = (changed.amax(1) - changed.amin(1)).flatten(1).amax(1) < 1e-4
    assert abs(grey.float().mean() - 0.4) < 0.08


def test_rotation_keeps_to_its_angle() -> None:
    view = make("whole", batch_of(photos(500)), rotate=15.0)
    assert view.meta is not None
    angle = torch.rad2deg(torch.atan2(view.meta["affine"][:, 1, 0], view.meta["affine"][:, 0, 0]))
    assert angle.abs().max() <= 15
    assert stats.kstest(angle.numpy(), stats.uniform(-15, 30).cdf).pvalue > 1e-3


def test_a_turned_view_is_the_picture_seen_through_its_affine() -> None:
    pixels = photos(3)
    view = make("whole", batch_of(pixels), rotate=15.0, shear=5.0, translate=0.1)
    assert view.meta is not None
    torch.testing.assert_close(view.x, warp(pixels.float() / 255, view.meta["affine"], view.x.shape[-1]))


def test_noise_is_said_in_units_of_the_pictures_range() -> None:
    statistics = {"mean": [0.5] * 3, "std": [0.1, 0.5, 2.0]}
    grey = batch_of(torch.full((4, 3, 24, 24), 128, dtype=torch.uint8))
    x = make("whole", grey, statistics=statistics, noise=0.05).x * torch.tensor(statistics["std"]).view(3, 1, 1)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.full((3,), 0.05), atol=0, rtol=0.1)


def test_jitter_stays_in_range() -> None:
    changed, _ = still("global", jitter=1.0, brightness=0.9, contrast=0.9)
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_jitter_of_any_strength_is_finite() -> None:
    changed, _ = still("global", jitter=1.0, brightness=3.0, contrast=3.0, saturation=3.0, hue=0.5)
    assert changed.isfinite().all()


# ---------------------------------------------------------------------------------------------- masked, image and raw


def test_masked_targets_are_the_pixels_of_each_token_in_order() -> None:
    view = make("masked", batch_of(noise(2)))
    assert view.target is not None
    grid = SETTINGS["size"] // 4
    for token in (0, 1, grid, grid * grid - 1):
        row, column = divmod(token, grid)
        want = view.x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        assert torch.equal(view.target[:, token], want)


def test_masked_hides_its_rate() -> None:
    view = make("masked", batch_of(noise(3)), rate=0.5)
    assert view.mask is not None
    assert view.mask.shape == (3, 36)
    assert view.mask.sum(1).tolist() == [18, 18, 18]


@pytest.mark.parametrize("name", ["masked", "blocks", "multiblock"])
def test_one_token_of_which_nothing_can_be_hidden_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="side 4 is one token of the encoder's patch of 4"):
        make(name, batch_of(noise(2)), size=4)


@pytest.mark.parametrize("name", ["global_blocks", "global2_blocks", "blocks"])
def test_blocks_hide_a_share_in_a_share_of_the_samples(name: str) -> None:
    view, masking = make(name, batch_of(noise(200))), options(name)["masking"]
    assert view.mask is not None
    assert view.meta is not None
    low, high = options(name)["rate"]
    count = view.mask.sum(1)
    assert count.max() <= round(high * 36)
    assert abs((count > 0).float().mean() - masking) < 4.5 * (masking * (1 - masking) / 200) ** 0.5 + 1e-6
    assert count[count > 0].float().mean() > 0.8 * (low + high) / 2 * 36
    assert view.meta["places"].shape == (200, round(high * 36))
    assert torch.equal(view.mask.gather(1, view.meta["places"]).sum(1), count)


def test_a_context_has_as_many_tokens_in_each_sample_and_none_of_a_target() -> None:
    view = make("multiblock", batch_of(noise(300)))
    assert view.mask is not None
    assert view.meta is not None
    shown, targets = ~view.mask, view.meta["targets"]
    assert targets.shape == (300, 4, 36)
    assert shown.sum(1).tolist() == [36 - 4 * 7] * 300
    assert not (shown.unsqueeze(1) & targets).any()
    assert (targets.sum(2) > 0).all()


def test_targets_that_leave_no_context_are_refused() -> None:
    with pytest.raises(UserError, match=r"^multiblock.target_scale=.*5 targets"):
        view_options(("multiblock",), SMALL, {"multiblock.targets": 5})
    with pytest.raises(UserError, match="4 targets in a view of 4 tokens"):
        make("multiblock", batch_of(noise(2)), size=8)


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_a_view_is_drawn_as_it_was(channels: int, shown: list[int]) -> None:
    pixels = noise(2, side=24, channels=channels)
    statistics = {"mean": [0.3] * channels, "std": [0.2] * channels}
    drawn = IMAGE.render(make("whole", batch_of(pixels), statistics=statistics), options("whole"), prep_of(statistics))
    assert np.array_equal(drawn, pixels[:, shown].permute(0, 2, 3, 1).numpy())


def test_hidden_tokens_are_drawn_grey() -> None:
    view = make("masked", batch_of(torch.zeros(1, 3, 24, 24, dtype=torch.uint8)))
    assert view.mask is not None
    drawn = IMAGE.render(view, options("masked"), prep_of())
    grey = torch.from_numpy(drawn[0, ::4, ::4, 0] == 128).flatten()
    assert torch.equal(grey, view.mask[0])


def test_raw_features_are_pixels_or_their_averages() -> None:
    assert np.array_equal(IMAGE.raw(batch_of(noise(2, side=8)), prep_of()), (noise(2, side=8) / 255).flatten(1))
    assert IMAGE.raw(batch_of(noise(2, side=64, channels=1)), prep_of()).shape == (2, 1024)


@pytest.mark.parametrize("bits", [8, 16])
def test_statistics_and_raw_features_are_in_units_of_the_brightest(bits: int) -> None:
    batch = batch_of(noise(6, side=24, bits=bits))
    share = batch["pixels"].numpy() / (2**bits - 1)
    found = IMAGE.fit(batch, prep_of())
    np.testing.assert_allclose(found["mean"], share.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["std"], share.std((0, 2, 3)), rtol=1e-3)
    np.testing.assert_allclose(IMAGE.raw(batch, prep_of()), share.reshape(6, -1), rtol=1e-5)


def test_a_channel_that_never_changes_does_not_divide_by_zero() -> None:
    batch = batch_of(torch.full((4, 1, 24, 24), 7, dtype=torch.uint8))
    assert make("whole", batch, statistics=IMAGE.fit(batch, prep_of())).x.isfinite().all()


@pytest.mark.parametrize(
    ("key", "value"),
    [("global.scale", "2,3"), ("global.scale", "0.8,0.2"), ("global.flip", "1.5"), ("masked.rate", "nan"), ("global.hue", "-1")],
)
def test_an_option_out_of_range_is_refused_by_name(key: str, value: str):
    with pytest.raises(UserError, match=rf"^{key}="):
        view_options((key.split(".")[0],), SMALL, {key: value})
