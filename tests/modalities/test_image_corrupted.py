"""The view with destroyed pixels, and how right a restored image is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pictures import batch_of, make, noise, options, prep_of

from untaught.modalities.image import IMAGE

STATISTICS = {"mean": [0.31, 0.5, 0.62], "std": [0.2, 0.1, 0.4]}


def corrupted(**own: Any):  # type: ignore[no-untyped-def]
    """Images without black or white values -> the corrupted and the clean ones in 0..1."""
    pixels = noise(16, side=24).clamp(10, 240)
    view = make("corrupted", batch_of(pixels), statistics=STATISTICS, **own)
    assert view.target is not None
    mean, std = (torch.tensor(STATISTICS[key]).view(-1, 1, 1) for key in ("mean", "std"))
    torch.testing.assert_close(view.target * std + mean, pixels / 255, atol=1e-5, rtol=0)
    return view.x * std + mean, view.target * std + mean


def test_a_share_of_the_pixels_is_black_in_all_channels() -> None:
    x, clean = corrupted(corruption="masking", level=0.25)
    black = x.abs() < 1e-5
    assert torch.equal(black.any(1), black.all(1))
    assert black.float().mean().item() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(x[~black], clean[~black])


def test_salt_and_pepper_are_black_or_white_evenly() -> None:
    x, clean = corrupted(corruption="salt_and_pepper", level=0.3)
    black, white = x.abs() < 1e-5, (x - 1).abs() < 1e-5
    assert torch.equal(white.any(1), white.all(1))
    assert black.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert white.float().mean().item() == pytest.approx(0.15, abs=0.01)
    torch.testing.assert_close(x[~black & ~white], clean[~black & ~white])


def test_gaussian_noise_has_its_deviation_in_units_of_the_full_range_and_is_not_clipped() -> None:
    x, clean = corrupted(corruption="gaussian", level=0.3)
    added = x - clean
    assert added.std((0, 2, 3)).tolist() == pytest.approx([0.3] * 3, abs=0.01)
    assert added.mean().item() == pytest.approx(0.0, abs=0.01)
    assert x.max() > 1.2


def test_noise_is_redrawn_in_every_epoch() -> None:
    pixels = batch_of(noise(2, side=24))
    first, again, later = (make("corrupted", pixels, epoch=epoch).x for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({"corruption": "blur"}, "corruption=blur: must be one of masking, gaussian, salt_and_pepper"),
        ({"level": 1.5}, "level=1.5: must be from 0 to 1, the share of values that masking destroys"),
        ({"level": -0.1}, "level=-0.1: must be from 0 to 10"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any], fault: str) -> None:
    assert IMAGE.check(options("corrupted", **wrong)) == fault
    assert IMAGE.check(options("corrupted", corruption="gaussian", level=1.5)) is None


def test_a_restored_image_is_drawn_and_measured() -> None:
    view = make("corrupted", batch_of(noise(2, side=24)), statistics=STATISTICS)
    assert view.target is not None
    prep, own = prep_of(STATISTICS), options("corrupted")
    pretext = IMAGE.pretexts["corrupted"]
    assert pretext.render(view, own, prep).shape == (2, 24, 24, 3)
    off = view.target + 0.1 / torch.tensor(STATISTICS["std"]).view(-1, 1, 1) * (view.target < 0)
    found = pretext.measure(view, off, own, prep)["psnr"]
    assert found.tolist() == pytest.approx([20 - 10 * torch.log10((view.target[i] < 0).float().mean()).item() for i in range(2)], abs=0.05)
