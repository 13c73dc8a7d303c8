"""k nearest neighbours on frozen features. Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F

CHUNK = 1 << 26  # similarities held at once
WIDE = 1024  # features of more numbers are compared in bfloat16 where the processor has it: cosines are then off by up to 2e-4


def knn_right(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    k: tuple[int, ...] = (20, 200),
    temperature: float = 0.07,
) -> dict[int, np.ndarray]:
    """Whether each query's label wins among its k nearest of the bank by cosine, votes weighted by exp(cosine / temperature).

    bank (N,D), queries (M,D) float; labels int from 0 -> {k: (M,) bool}; a k above N is N. Takes no copy of the bank on a CPU.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keys = torch.from_numpy(bank).float().to(device)
    scale = keys.norm(dim=1).clamp(min=1e-12).reciprocal()
    labels = torch.from_numpy(bank_labels).long().to(device)
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    most = min(max(k), len(bank))
    right: dict[int, list[np.ndarray]] = {count: [] for count in k}
    height = max(1, CHUNK // len(bank))
    with _products(keys.shape[1]):
        for start in range(0, len(queries), height):
            rows = F.normalize(torch.from_numpy(queries[start : start + height]).float().to(device), dim=1)
            truth = torch.from_numpy(query_labels[start : start + height]).long().to(device)
            near, index = (rows @ keys.T).mul_(scale).topk(most, dim=1)
            weight, vote = (near / temperature).exp(), labels[index]
            for count in k:
                scores = weight.new_zeros(len(rows), classes).scatter_add_(1, vote[:, :count], weight[:, :count])
                right[count].append((scores.argmax(1) == truth).cpu().numpy())
    return {count: np.concatenate(parts) for count, parts in right.items()}


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    k: tuple[int, ...] = (20, 200),
    temperature: float = 0.07,
) -> dict[int, float]:
    """The share of queries that `knn_right` gets right -> {k: accuracy}."""
    return {count: float(right.mean()) for count, right in knn_right(bank, bank_labels, queries, query_labels, k, temperature).items()}


@contextmanager
def _products(width: int) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if width > WIDE:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
