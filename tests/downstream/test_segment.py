"""Segmentation: the mask in a view's geometry by planted pixels, the loss by loops, scores by their definition, and what masks mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from untaught.core import Preprocessor, UserError, View
from untaught.downstream.network import TrainedLayers
from untaught.downstream.segment import IGNORED, Segment, numbering
from untaught.downstream.task import Targets
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.timm import vit_mini
from untaught.modalities.image import IMAGE
from untaught.modalities.image.presets import NOTHING
from untaught.ops.counter_rng import CounterRNG

SIDE = 32
PREP = Segment.reading(Preprocessor(IMAGE, {}, {"mean": [0.0], "std": [1.0]}))


def task(values: tuple[int, ...] = (0, 1, 2), encoder: Any = None, **knobs: Any) -> Segment:
    torch.manual_seed(0)
    encoder = encoder or ConvSmall(width=4)
    shapes = [list(m.shape[1:]) for m in encoder.features(View(torch.zeros(1, 3, SIDE, SIDE)), want=("maps",)).maps]
    return Segment(encoder, {"values": list(values), "maps": shapes, "side": SIDE}, **knobs).eval()


class Rows:
    """What a task reads of a store."""

    def __init__(self, masks: np.ndarray) -> None:
        self.columns = {"target.mask": masks}

    def __len__(self) -> int:
        return len(self.columns["target.mask"])


def stored(columns: np.ndarray) -> Any:
    return Rows(columns)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": 1.0},
        {"flip_vertical": 1.0, "scale": (0.3, 0.6)},
        {"flip": 0.5, "scale": (0.3, 1.0), "ratio": (0.75, 1.33)},
        {"rotate": 30.0, "translate": 0.1, "shear": 10.0},
        {"ratio": (0.01, 100.0)},
    ],
)
def test_a_mask_follows_its_image(options: dict[str, Any]) -> None:
    """The image is its mask: wherever a view shows one colour, its target is that class. Half of the squares are wider than high."""
    random = np.random.default_rng(0)
    blocks = torch.from_numpy(random.integers(0, 3, (6, 5, 5)).astype(np.uint8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = {
        "pixels": blocks[:, None] * 100,
        "aspect": torch.tensor([1.0, 1.5, 0.7] * 2),
        "target.mask": blocks,
        "target.size": torch.full((6, 2), 40),
        "index": torch.arange(6),
    }
    view = IMAGE.views["light"](batch, CounterRNG(0, 0, batch["index"], 0), NOTHING | {"size": 40} | options, PREP)
    seen = IMAGE.targets["masks"].follow(batch, view)
    assert seen.target is not None
    shown = view.x * 255 / 100  # 0, 1, 2, and mixtures at the borders of blocks
    most, least = (sign * torch.nn.functional.max_pool2d(sign * shown, 3, 1, 1) for sign in (1, -1))
    inner = (most - least < 0.02)[:, 0]
    assert inner.float().mean() > 0.2
    assert torch.equal(shown[:, 0].round()[inner].byte(), seen.target[inner])
    moved = options != {"ratio": (0.01, 100.0)}  # the whole image
    assert torch.equal(seen.target, blocks) is not moved


@pytest.mark.parametrize("head", ["linear", "conv"])
@pytest.mark.parametrize("encoder", [lambda: ConvSmall(width=4), lambda: vit_mini(size=32, embed_dim=12, depth=1, num_heads=2)])
def test_the_loss_by_loops(head: str, encoder: Any) -> None:
    made = task((0, 4, 9), encoder(), head=head)
    x, target = torch.randn(2, 3, SIDE, SIDE), torch.tensor([0, 4, 9, 255], dtype=torch.uint8)[torch.randint(0, 4, (2, SIDE, SIDE))]
    loss = made([View(x, target=target)], 0.0)["cross_entropy"]
    logits = made.network(View(x))
    assert logits.shape == (2, 3, SIDE, SIDE)
    log, total, count = logits.detach().log_softmax(1), 0.0, 0
    for i, y, z in np.ndindex(2, SIDE, SIDE):
        if (value := int(target[i, y, z])) != 255:
            total, count = total - float(log[i, [0, 4, 9].index(value), y, z]), count + 1
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    nothing = made([View(x, target=torch.full_like(target, 255))], 0.0)["cross_entropy"]
    assert nothing.item() == 0


def test_scores_are_counted_over_all_pixels_of_all_images() -> None:
    made = task()
    random = np.random.default_rng(0)
    truth, said = random.integers(0, 3, (5, 4, 4)).astype(np.uint8), random.integers(0, 3, (5, 4, 4)).astype(np.uint8)
    truth[0, :2] = 255
    outcome = made.outcome({"classes": said}, truth)
    kept = truth != 255
    ious = [((said == c) & (truth == c) & kept).sum() / (((said == c) | (truth == c)) & kept).sum() for c in range(3)]
    scores = made.scores(outcome)
    assert scores["miou"] == pytest.approx(np.mean(ious))
    assert scores["pixel_accuracy"] == pytest.approx((said == truth)[kept].mean())
    assert made.judge({"classes": said}, truth) == pytest.approx(1 - np.mean(ious))
    absent = made.scores(made.outcome({"classes": np.zeros((1, 4, 4), np.uint8)}, np.zeros((1, 4, 4), np.uint8)))
    assert absent == {"miou": 1.0, "pixel_accuracy": 1.0}, "a class that is nowhere has no share in the mean"
    wrong = made.scores(made.outcome({"classes": np.array([[[0, 0], [0, 1]]], np.uint8)}, np.zeros((1, 2, 2), np.uint8)))
    assert wrong == {"miou": 0.375, "pixel_accuracy": 0.75}, "a class that is only predicted has"
    rows = made.metrics([outcome])
    assert rows["miou"].interval[0] < scores["miou"] < rows["miou"].interval[1]


@pytest.mark.parametrize(
    ("found", "knobs", "values", "numbers", "said"),
    [
        (
            [0, 1, 2, 255],
            {},
            [0, 1, 2],
            {0: 0, 1: 1, 2: 2, 255: IGNORED, 7: IGNORED},
            "pixel values 0, 1, 2, 255: 3 classes, 255 is ignored",
        ),
        ([0, 255], {}, [0, 255], {0: 0, 255: 1}, "pixel values 0, 255: 2 classes, all above 0 form one class"),
        (
            [0, 1, 2, 3],
            {"binary": True},
            [0, 1],
            {0: 0, 1: 1, 3: 1, 255: IGNORED},
            "pixel values 0, 1, 2, 3: 2 classes, all above 0 form one class",
        ),
        ([0, 1, 2], {"ignore": 0}, [1, 2], {0: IGNORED, 1: 0, 2: 1}, "pixel values 0, 1, 2: 2 classes, 0 is ignored"),
    ],
)
def test_what_the_values_of_masks_mean(found: list[int], knobs: Any, values: list[int], numbers: dict[int, int], said: str) -> None:
    targets = Segment.targets(stored(np.array([[found]], np.uint8)), PREP.modality, "", knobs)
    facts = targets.facts
    assert facts["values"] == values
    mapped = numbering(values, facts["binary"], facts["ignore"])
    assert {value: mapped[value] for value in numbers} == numbers
    assert targets.about == f"{said}; "


def test_masks_of_one_class_teach_nothing() -> None:
    with pytest.raises(UserError, match="the masks have values 0, 255: 1 class; at least 2 are needed"):
        Segment.targets(stored(np.array([[[0, 0]], [[0, 255]]], np.uint8)), PREP.modality, "", {"ignore": 0})


@pytest.mark.parametrize("names", ["person", "a,a,b", "a,b,"])
def test_names_are_one_a_class(names: str) -> None:
    with pytest.raises(UserError, match="give 3 distinct names, one per class"):
        task(names=names)


@pytest.mark.parametrize(
    "facts",
    [
        {"values": [0]},
        {"values": [0, 300]},
        {"values": "01"},
        {"maps": []},
        {"maps": [[1, 2]]},
        {"maps": [[1 << 30, 4, 4]]},
        {"side": -1},
        {"side": True},
    ],
)
def test_facts_of_a_strange_file_are_refused(facts: dict[str, Any]) -> None:
    known = {"values": [0, 1], "maps": [[8, 16, 16], [8, 8, 8], [16, 4, 4]], "side": 32}
    with pytest.raises(UserError):
        Segment(ConvSmall(width=4), known | facts)


def test_a_prediction_is_as_large_as_its_image_and_in_the_values_of_the_masks() -> None:
    made = task((0, 255), binary=True, ignore=-1)
    view = View(torch.randn(2, 3, SIDE, SIDE), meta={"size": torch.tensor([[50, 30], [20, 40]])})
    predictions = {**made.predict(view), "row": np.arange(2), "name": np.array(["a", "b"], object)}
    (first, one), (second, other) = made.files(predictions)
    assert (first, one.size, second, other.size) == ("a", (50, 30), "b", (20, 40))
    assert set(np.unique(np.asarray(one))) <= {0, 255}
    table = made.table(predictions).to_pydict()
    assert list(table) == ["row", "name", "share_0", "share_255"]
    assert table["share_0"][0] + table["share_255"][0] == pytest.approx(1)


def test_frozen_maps_leave_the_encoder_as_it_is() -> None:
    made: Segment = task(layers=TrainedLayers("frozen"), head="linear").train()
    before = {name: value.clone() for name, value in made.network.encoder.state_dict().items()}
    target: Tensor = torch.randint(0, 3, (2, SIDE, SIDE), dtype=torch.uint8)
    made([replace(View(torch.randn(2, 3, SIDE, SIDE)), target=target)], 0.0)["cross_entropy"].backward()
    assert all(torch.equal(value, before[name]) for name, value in made.network.encoder.state_dict().items())
    assert all(p.grad is None for p in made.network.encoder.parameters())
    assert all(p.grad is not None for p in made.network.head.parameters())


@pytest.mark.parametrize("normalised", [True, False])
def test_a_linear_head_does_not_depend_on_the_scale_of_the_features(normalised: bool) -> None:
    """A head that was saved before heads were normalised stays as it was."""
    torch.manual_seed(0)
    maps, facts = [torch.randn(4, 6, 8, 8)], {"values": [0, 1], "maps": [[6, 8, 8]], "side": SIDE}
    head = Segment(ConvSmall(width=4), facts | ({"normalised": True} if normalised else {}), head="linear").train().network.head
    one, large = (head(([factor * each for each in maps], SIDE)) for factor in (1, 100))
    assert torch.allclose(one, large, atol=1e-3) is normalised


def test_new_heads_are_normalised() -> None:
    targets = Targets(np.ones(1, bool), np.zeros(1), lambda batch, view: view, {"values": [0, 1]})
    assert Segment.learned(targets, np.arange(1), ConvSmall(width=4), View(torch.zeros(1, 3, SIDE, SIDE)))["normalised"]
