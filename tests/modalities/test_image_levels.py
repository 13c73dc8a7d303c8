"""The view of integer levels: a stored image gives back its own bytes, and x says the same as the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import SETTINGS, batch_of, make, noise, prep_of
from torch import Tensor

from untaught.core import Options, View
from untaught.modalities.image import IMAGE
from untaught.modalities.image.decode import decode
from untaught.modalities.image.presets import PRESETS
from untaught.ops.counter_rng import CounterRNG

STATISTICS = {"mean": [0.31, 0.5, 0.62], "std": [0.2, 0.013, 0.4]}


def every_level(side: int = 16) -> Tensor:
    """(3,3,16,16) uint8: each level once a channel, in another order in each."""
    draws = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(256, generator=draws) for _ in range(9)]).view(3, 3, side, side).to(torch.uint8)


def unnormalised(x: Tensor, statistics: Options) -> Tensor:
    mean, std = (torch.tensor(statistics[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return x * std + mean


def test_a_stored_image_gives_back_exactly_its_bytes() -> None:
    pixels = every_level()
    view = make("levels", batch_of(pixels), statistics=STATISTICS, size=16)
    assert view.target is not None
    assert view.target.dtype == torch.int64
    assert torch.equal(view.target, pixels.long())
    torch.testing.assert_close(unnormalised(view.x, STATISTICS) * 255, pixels.float(), rtol=0, atol=1e-3)
    mirrored = make("levels", batch_of(pixels), statistics=STATISTICS, size=16, flip=1.0)
    assert torch.equal(mirrored.target, pixels.long().flip(3))  # type: ignore[arg-type]


def test_bytes_stay_what_they_are_on_their_way_from_the_array_to_the_view() -> None:
    image = every_level()[0, 0].numpy()
    prep = prep_of({"mean": [0.3], "std": [0.35]}, channels=1, side=16, size=32)
    batch = batch_of(torch.tensor(decode({"image": image}, prep)["pixels"][None]))
    view = IMAGE.views["levels"](batch, CounterRNG(0, 0, batch["index"], 0), prep.presets()["levels"], prep)
    assert view.target is not None
    assert np.array_equal(view.target[0, 0].numpy(), image)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_smaller_stored_image_is_not_enlarged_and_nothing_is_drawn(preset: str) -> None:
    own = prep_of(preset=preset, side=20).presets()["levels"]
    assert own["size"] == 20 < SETTINGS["size"]
    assert own == {**prep_of(preset=preset).presets()["whole"], "size": 20}
    assert prep_of(side=36).presets()["levels"]["size"] == SETTINGS["size"]


def test_what_is_resampled_is_quantised_and_x_is_the_quantised() -> None:
    pixels = noise(2)
    whole, view = make("whole", batch_of(pixels), statistics=STATISTICS), make("levels", batch_of(pixels), statistics=STATISTICS)
    unit = unnormalised(whole.x, STATISTICS) * 255
    assert ((unit - unit.round()).abs() > 0.1).any()
    assert view.target is not None
    assert (view.target - unit).abs().max() <= 0.501
    torch.testing.assert_close(unnormalised(view.x, STATISTICS) * 255, view.target.float(), rtol=0, atol=1e-3)


def test_sixteen_bits_become_the_nearest_of_256_levels() -> None:
    pixels = (every_level().int() * 257 + 100).clamp(max=65535).to(torch.uint16)
    assert torch.equal(make("levels", batch_of(pixels), size=16).target, every_level().long())  # type: ignore[arg-type]


def test_levels_are_drawn_and_measured_as_the_image() -> None:
    pixels = every_level()
    view, prep = make("levels", batch_of(pixels), size=16), prep_of()
    own = IMAGE.pretexts["levels"]
    assert np.array_equal(own.render(view, {}, prep), pixels.permute(0, 2, 3, 1).numpy())
    assert view.target is not None
    other = view.target.clone()
    other[1] = (other[1] + 1).clamp(max=255)
    found = own.measure(view, other, {}, prep)["psnr"]
    assert found[0] == np.inf
    assert found[1] == pytest.approx(20 * np.log10(255), abs=0.1)
    assert own.render(View(view.x, target=other), {}, prep).dtype == np.uint8
