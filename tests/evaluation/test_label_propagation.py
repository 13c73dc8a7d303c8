"""Label propagation against its definition in plain loops, and the scores of DAVIS by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from untaught.evaluation.label_propagation import contour, contour_accuracy, masks_of, propagate, region_similarity


def test_a_place_gets_the_labels_of_its_most_similar_places_in_reach() -> None:
    draws = torch.Generator().manual_seed(0)
    features, first = torch.randn(5, 3, 4, 5, generator=draws), torch.rand(2, 4, 5, generator=draws)
    found = propagate(features, first, queue=2, top=3, radius=1, temperature=0.1)
    labels = {0: first}
    for now in range(1, 5):
        made = torch.zeros(2, 4, 5)
        for i in range(4):
            for j in range(5):
                candidates = []
                for source in sorted({0, *[frame for frame in (now - 2, now - 1) if frame > 0]}):
                    for k in range(max(0, i - 1), min(4, i + 2)):
                        for m in range(max(0, j - 1), min(5, j + 2)):
                            a, b = features[now, :, i, j], features[source, :, k, m]
                            cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
                            candidates.append((cosine, labels[source][:, k, m]))
                candidates.sort(key=lambda pair: -pair[0])
                weights = [math.exp(cosine / 0.1) for cosine, _ in candidates[:3]]
                made[:, i, j] = sum(w * label for w, (_, label) in zip(weights, candidates, strict=False)) / sum(weights)
        labels[now] = made
        torch.testing.assert_close(found[now], made, atol=1e-4, rtol=1e-4)


def test_an_object_that_moves_is_followed() -> None:
    frames = torch.zeros(6, 2, 8, 12)
    frames[:, 0] = 1.0
    for t in range(6):
        frames[t, :, 2:5, 1 + t : 4 + t] = torch.tensor([0.0, 1.0])[:, None, None]
    first = torch.stack([frames[0, 0], frames[0, 1]])
    found = masks_of(propagate(frames, first, radius=3), (16, 24))
    truth = frames[:, 1].repeat_interleave(2, 1).repeat_interleave(2, 2).bool().numpy()
    assert min(region_similarity(a == 1, b) for a, b in zip(found, truth, strict=True)) > 0.6


def test_scores_of_davis() -> None:
    a, b = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    a[10:20, 10:20], b[10:20, 15:25] = True, True
    assert region_similarity(a, b) == pytest.approx(50 / 150)
    assert region_similarity(a, a) == contour_accuracy(a, a) == 1.0
    nothing = np.zeros_like(a)
    assert region_similarity(nothing, nothing) == contour_accuracy(nothing, nothing) == 1.0
    assert region_similarity(a, nothing) == contour_accuracy(a, nothing) == 0.0
    near = np.zeros_like(a)
    near[11:21, 10:20] = True  # moved by one pixel: within ceil(0.008 * 72.1) = 1
    far = np.zeros_like(a)
    far[25:35, 40:50] = True
    assert contour_accuracy(a, near) == 1.0
    assert contour_accuracy(a, far) == 0.0
    assert 0.3 < contour_accuracy(a, b) < 0.8


def test_a_contour_is_where_the_mask_changes_to_the_right_or_below() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 2] = True
    assert np.argwhere(contour(mask)).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
