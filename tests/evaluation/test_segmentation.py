"""Segmentation without labels: clusters are matched to classes over the whole data set, and colours are what they say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from untaught.commands.frozen import without_labels
from untaught.core import View
from untaught.encoders.colours import Colours
from untaught.evaluation.segmentation import confusion, kmeans_segmentation


def test_confusion_counts_pixels_by_true_and_found_class_without_ignored_ones() -> None:
    truth, found = np.array([[[0, 1], [2, 255]]]), np.array([[[0, 2], [2, 1]]])
    assert confusion(truth, found, 3, 255).tolist() == [[[1, 0, 0], [0, 0, 1], [0, 0, 1]]]


def test_separate_kinds_of_places_are_found_under_any_numbering_of_the_clusters() -> None:
    random = np.random.default_rng(0)
    places = random.integers(0, 3, (6, 4, 5))  # of 6 images
    kinds = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    vectors = 5 + kinds[places.reshape(6, 20)] + 0.05 * random.normal(size=(6, 20, 3)).astype(np.float32)  # with a large common mean
    truth = places.repeat(2, 1).repeat(2, 2)
    truth[0, 0] = 255
    outcomes = kmeans_segmentation(vectors, (4, 5), truth, 3, 255)
    assert len(outcomes) == 5
    for outcome in outcomes:
        assert outcome.sum() == (truth != 255).sum()
        assert (outcome.sum(0) == np.diag(np.bincount(truth[truth != 255], minlength=3))).all()


def test_one_matching_holds_for_all_images() -> None:
    """Two images with the same places and opposite masks: half of the pixels are wrong, whichever cluster is whose."""
    vectors = np.tile(np.array([[1.0, 0], [0, 1]], np.float32)[None], (2, 1, 1))
    truth = np.array([[[0, 1]], [[1, 0]]])
    for outcome in kmeans_segmentation(vectors, (1, 2), truth, 2, 255):
        assert outcome.sum(0).diagonal().sum() == 2


@pytest.mark.parametrize("binary", [True, False])
def test_ignored_pixels_have_no_cluster_of_their_own(binary: bool) -> None:
    """Instances 0, 1 and 2 with a border of 255, as in PASCAL VOC: as one class and as classes."""
    masks = torch.randint(0, 3, (3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    masks[:, ::3] = 255
    batch = {"pixels": torch.rand(3, 3, 8, 8), "index": torch.arange(3)}
    tuner: Any = SimpleNamespace(
        test=np.arange(3),
        encoder=Colours(3),
        device=torch.device("cpu"),
        dataset=SimpleNamespace(name="x", in_order=lambda rows, size: SimpleNamespace(batches=lambda epoch: [batch])),
        targets=SimpleNamespace(follow=lambda batch, view: replace(view, target=masks)),
        used=lambda batch, epoch: [View(batch["pixels"])],
    )
    counted: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("untaught.commands.frozen.measure", lambda scores, outcomes, around: counted.extend(outcomes) or {})
        without_labels(tuner, {"values": [0, 1] if binary else [0, 1, 2], "binary": binary, "ignore": 255})
    true = np.bincount(masks[masks != 255].clamp(max=1 if binary else 2).numpy())
    assert len(counted) == 5
    assert all(outcome.sum((0, 2)).tolist() == true.tolist() for outcome in counted)


def test_colours_are_pixels_and_the_means_around_them() -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = Colours(3).features(View(x), ("maps",))
    assert features.maps is not None
    (found,) = features.maps
    assert found.shape == (2, 9, 32, 32)
    assert torch.equal(found[:, :3], x)
    flat = Colours(3).features(View(x[:, :, :1, :1].expand(2, 3, 32, 32)), ("maps",)).maps
    assert flat is not None
    torch.testing.assert_close(flat[0], x[:, :, :1, :1].repeat(1, 3, 1, 1).expand(2, 9, 32, 32))
