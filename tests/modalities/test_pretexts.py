"""Targets of image views as images, and how right an answer is: against values known from how the view was made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Options, Preprocessor, View
from untaught.modalities.image import IMAGE
from untaught.modalities.image.pretexts import psnr
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.permutations import distant_permutations

SETTINGS: Options = {"size": 24, "side": 24, "channels": 3, "bits": 8, "preset": "small", "max_value": 255}
PREP = Preprocessor(IMAGE, SETTINGS, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]})
COUNT = 4


def batch() -> dict[str, Tensor]:
    """Smooth images without symmetry."""
    y, x = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    pixels = torch.stack([4 * y + 5 * x, 9 * y + 1, 250 - 10 * x]).expand(COUNT, -1, -1, -1).clone().byte()
    return {"pixels": pixels, "aspect": torch.ones(COUNT), "index": torch.arange(COUNT)}


def made(name: str, **changes: Any) -> tuple[View, Options]:
    options = PREP.presets()[name] | IMAGE.unaugmented | changes
    return IMAGE.views[name](batch(), CounterRNG(0, 0, batch()["index"], 0), options, PREP), options


def drawn(view: View, name: str, options: Options) -> np.ndarray:
    return IMAGE.pretexts[name].render(view, options, PREP)


def measured(view: View, answer: Tensor, name: str, options: Options) -> dict[str, np.ndarray]:
    return IMAGE.pretexts[name].measure(view, answer, options, PREP)


def original() -> np.ndarray:
    return batch()["pixels"].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", ["masked", "rotations"])
def test_the_target_is_the_image_itself(name: str) -> None:
    view, options = made(name, **({"patch": 6} if name == "masked" else {}))
    np.testing.assert_allclose(drawn(view, name, options).astype(int), original().astype(int), atol=1)


def test_an_answer_fills_masked_tokens_only() -> None:
    view, options = made("masked", patch=6)
    assert view.mask is not None
    assert view.target is not None
    black = -torch.tensor(PREP.statistics["mean"]) / torch.tensor(PREP.statistics["std"])
    answer = black.repeat_interleave(36).expand_as(view.target)
    found = drawn(replace(view, target=answer), "masked", options)
    hidden = F.interpolate(view.mask.view(COUNT, 1, 4, 4).float(), scale_factor=6).bool().squeeze(1).numpy()
    assert (found[hidden] == 0).all()
    np.testing.assert_allclose(found[~hidden].astype(int), original()[~hidden].astype(int), atol=1)
    error = [((original()[i] / 255.0) ** 2)[hidden[i]].mean() for i in range(COUNT)]
    np.testing.assert_allclose(measured(view, answer, "masked", options)["psnr"], -10 * np.log10(error), rtol=1e-3)
    assert (measured(view, view.target, "masked", options)["psnr"] > 100).all()


def test_sides_that_patches_do_not_fill_keep_their_border() -> None:
    view, options = made("masked", patch=7)
    assert view.target is not None
    np.testing.assert_allclose(drawn(view, "masked", options).astype(int), original().astype(int), atol=1)
    assert (measured(view, view.target, "masked", options)["psnr"] > 100).all()


def test_psnr_by_hand() -> None:
    a, b = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    b[0, 0, 0, 0], b[1] = 0.2, 0.1
    where = torch.tensor([[[True, True], [False, False]], [[True, False], [False, False]]])[:, None]
    np.testing.assert_allclose(psnr(a, b), [20.0, 20.0], rtol=1e-5)  # 0.04 / 4 and 0.01
    np.testing.assert_allclose(psnr(a, b, where), [-10 * np.log10(0.02), 20.0], rtol=1e-5)
    assert np.isinf(psnr(a, a)).all()


@pytest.mark.parametrize("turns", range(4))
def test_a_turned_image_is_turned_back(turns: int) -> None:
    """The network's answers when the image itself has been turned: copy k is recognised as turned by turns + k."""
    view, options = made("rotations")
    x = view.x.rot90(turns, (3, 4))
    answer = F.one_hot((torch.arange(4) + turns) % 4, 4).float().expand(COUNT, -1, -1)
    given = replace(view, x=x)
    np.testing.assert_allclose(drawn(replace(given, target=answer), "rotations", options).astype(int), original().astype(int), atol=1)
    found = measured(given, answer, "rotations", options)
    assert found["turned"].tolist() == [90 * turns] * COUNT
    assert found["right"].tolist() == [float(turns == 0)] * COUNT


def test_three_of_four_copies_outvote_the_fourth() -> None:
    view, options = made("rotations")
    answer = F.one_hot(torch.tensor([2, 1, 2, 3]), 4).float().expand(COUNT, -1, -1)
    found = measured(view, answer, "rotations", options)
    assert found["turned"].tolist() == [0] * COUNT
    assert found["right"].tolist() == [0.75] * COUNT


def test_a_solved_puzzle_is_the_image() -> None:
    options = {"tile": 8, "gap": 0.0, "shift": 0.0, "channel_shift": 0.0, "normalise": False, "permutations": 20}
    view, options = made("puzzle", **options)
    assert view.target is not None
    assert view.parts is not None
    solved = drawn(view, "puzzle", options)
    lines = [8, 17]  # white lines between the tiles
    tiles = np.delete(np.delete(solved, lines, 1), lines, 2)
    np.testing.assert_allclose(tiles.astype(int), original().astype(int), atol=1)
    wrong = view.target.roll(1, 1)
    cells = distant_permutations(9, 20)[wrong.argmax(1)]
    found = measured(view, wrong, "puzzle", options)
    assert found["right"].tolist() == [0.0] * COUNT
    np.testing.assert_allclose(found["tiles_right"], (cells == view.parts).float().mean(1))
    assert not np.array_equal(drawn(replace(view, target=wrong), "puzzle", options), solved)
    assert measured(view, view.target, "puzzle", options)["tiles_right"].tolist() == [1.0] * COUNT


def test_neighbours_at_their_places() -> None:
    plain = {"tile": 8, "gap": 0.0, "shift": 0.0, "drop": 0.0, "pixelate": 0.0, "normalise": False}
    view, options = made("neighbours", **plain)
    assert view.target is not None
    tiles = np.delete(np.delete(drawn(view, "neighbours", options), [8, 17], 1), [8, 17], 2)
    np.testing.assert_allclose(tiles.astype(int), original().astype(int), atol=1)
    answer = view.target.clone()
    answer[:, 0] = answer[:, 1]
    assert measured(view, answer, "neighbours", options)["right"].tolist() == [7 / 8] * COUNT
    put = drawn(replace(view, target=answer), "neighbours", options)
    assert (put[:, :8, :8] == 255).all(), "nobody is at the first place"


@pytest.mark.parametrize("name", sorted(IMAGE.pretexts))
def test_grey_and_many_channels_can_be_drawn(name: str) -> None:
    for channels in (3,) if name == "lightness" else (1, 5):
        prep = replace(PREP, settings=SETTINGS | {"channels": channels}, statistics={"mean": [0.5] * channels, "std": [0.2] * channels})
        options = prep.presets()[name] | IMAGE.unaugmented
        options |= {key: 6 for key in ("patch", "stride") if key in options}
        pixels = batch() | {"pixels": batch()["pixels"].roll(1, 1)[:, [0] * channels]}
        view = IMAGE.views[name](pixels, CounterRNG(0, 0, pixels["index"], 0), options, prep)
        images = IMAGE.pretexts[name].render(view, options, prep)
        assert images.shape[::3] == (COUNT, 3)
        assert images.dtype == np.uint8
