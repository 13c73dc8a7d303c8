"""Recall@k against plain loops, with several captions of an image, ties, and chance by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from untaught.evaluation import retrieval
from untaught.evaluation.retrieval import chance, measured, outcomes, ranks, recall_rows, recalls

NAMES = ("image", "text")
CAPTIONS = (3, 1, 2, 2)


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, texts near their image, and which image each is of."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(len(CAPTIONS), 5, generator=generator)
    of = torch.arange(len(CAPTIONS)).repeat_interleave(torch.tensor(CAPTIONS))
    return image, image[of] + 1.5 * torch.randn(len(of), 5, generator=generator), torch.arange(len(CAPTIONS)), of


def by_loops(image: np.ndarray, text: np.ndarray, of: list[int], k: int) -> tuple[float, float]:
    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    found = [sorted(range(len(text)), key=lambda t: -cosine(a, text[t]))[:k] for a in image]
    there = [any(of[t] == i for t in near) for i, near in enumerate(found)]
    found = [sorted(range(len(image)), key=lambda i: -cosine(image[i], b))[:k] for b in text]
    back = [of[t] in near for t, near in enumerate(found)]
    return float(np.mean(there)), float(np.mean(back))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk", [1, 1 << 24])
def test_recall_is_that_of_loops(seed: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    image, text, image_of, text_of = pairs(seed)
    found = recalls(outcomes(image, text, image_of, text_of, (1, 2)), NAMES, (1, 2))
    for k in (1, 2):
        want = by_loops(image.numpy(), text.numpy(), text_of.tolist(), k)
        assert (found[f"image_to_text_recall@{k}"], found[f"text_to_image_recall@{k}"]) == pytest.approx(want)


def test_vectors_that_are_all_alike_find_nothing() -> None:
    _, _, image_of, text_of = pairs()
    found = recalls(outcomes(torch.ones(4, 3), torch.ones(8, 3), image_of, text_of), NAMES)
    assert found["image_to_text_recall@1"] == found["text_to_image_recall@1"] == 0


def test_a_query_without_a_match_is_missed() -> None:
    assert ranks(torch.randn(1, 3), torch.randn(4, 3), torch.tensor([9]), torch.arange(4)).tolist() == [4]


def test_chance_is_that_of_random_orders() -> None:
    _, _, image_of, text_of = pairs()
    want = chance(image_of, text_of, NAMES, (1, 3))
    assert want["text_to_image_recall@3"] == pytest.approx(3 / 4)
    generator = torch.Generator().manual_seed(0)
    draws = [
        recalls(
            outcomes(torch.randn(4, 16, generator=generator), torch.randn(8, 16, generator=generator), image_of, text_of, (1, 3)),
            NAMES,
            (1, 3),
        )
        for _ in range(2000)
    ]
    for metric, value in want.items():
        assert np.mean([draw[metric] for draw in draws]) == pytest.approx(value, abs=0.03)
    assert chance(torch.arange(2), torch.arange(2), NAMES)["image_to_text_recall@10"] == 1


def test_intervals_are_over_images_and_differences_are_paired() -> None:
    image, text, image_of, text_of = pairs()
    good, bad = (measured(outcomes(z, text, image_of, text_of), NAMES) for z in (image, image.flip(0)))
    rows = {row["metric"]: row for row in recall_rows(good, len(image))}
    assert rows["image_to_text_recall@1"]["low"] < rows["image_to_text_recall@1"]["mean"] == rows["image_to_text_recall@1"]["high"] == 1
    assert rows["text_to_image_recall@1"]["low"] < rows["text_to_image_recall@1"]["mean"] < rows["text_to_image_recall@1"]["high"]
    metric = "text_to_image_recall@1"
    difference = good[metric] - bad[metric]
    assert difference.mean == pytest.approx(good[metric].mean - bad[metric].mean)
    assert (good[metric] - good[metric]).interval == (0.0, 0.0)
