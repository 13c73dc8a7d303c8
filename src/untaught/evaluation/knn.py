"""k nearest neighbours on frozen features. Wu et al. 2018, https://arxiv.org/abs/1805.01978, section 3.4."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1 << 26  # similarities in memory at once
WIDE = 1024  # wider features are compared in bfloat16 if the hardware supports it; cosine error up to 2e-4


def knn_right(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    k: tuple[int, ...] = (20, 200),
    temperature: float = 0.07,
) -> dict[int, np.ndarray]:
    """Whether each query is classified correctly by its k nearest bank rows by cosine, votes weighted by exp(cosine / temperature).

    bank (N,D), queries (M,D) float; labels int from 0 -> {k: (M,) bool}; k is clipped to N. The bank is not copied on a CPU.
    """
    labels = torch.from_numpy(bank_labels).long()
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    right: dict[int, list[np.ndarray]] = {count: [] for count in k}
    for start, weight, index in _neighbours(bank, queries, max(k), temperature):
        labels = labels.to(index.device)
        vote, truth = labels[index], torch.from_numpy(query_labels[start : start + len(index)]).long().to(index.device)
        for count in k:
            scores = weight.new_zeros(len(index), classes).scatter_add_(1, vote[:, :count], weight[:, :count])
            right[count].append((scores.argmax(1) == truth).cpu().numpy())
    return {count: np.concatenate(parts) for count, parts in right.items()}


def knn_numbers(
    bank: np.ndarray, bank_targets: np.ndarray, queries: np.ndarray, k: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> dict[int, np.ndarray]:
    """kNN regression of targets (N,): the mean of the k nearest, weighted as in `knn_right` -> {k: (M,) float64}."""
    targets = torch.from_numpy(np.asarray(bank_targets, np.float64))
    found: dict[int, list[np.ndarray]] = {count: [] for count in k}
    for _, weight, index in _neighbours(bank, queries, max(k), temperature):
        targets = targets.to(index.device)
        weight, near = weight.double(), targets[index]
        for count in k:
            mean = (weight[:, :count] * near[:, :count]).sum(1) / weight[:, :count].sum(1)
            found[count].append(mean.cpu().numpy())
    return {count: np.concatenate(parts) for count, parts in found.items()}


def knn_vectors(
    bank: np.ndarray, bank_targets: np.ndarray, queries: np.ndarray, k: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> dict[int, np.ndarray]:
    """As `knn_numbers`, of targets (N,K) -> {k: (M,K) float32}."""
    targets = torch.from_numpy(np.asarray(bank_targets, np.float32))
    found: dict[int, list[np.ndarray]] = {count: [] for count in k}
    for _, weight, index in _neighbours(bank, queries, max(k), temperature):
        targets = targets.to(index.device)
        for count in k:
            near = weight[:, :count] / weight[:, :count].sum(1, keepdim=True)
            votes = near.new_zeros(len(index), len(targets)).scatter_(1, index[:, :count], near)
            found[count].append((votes @ targets).cpu().numpy())
    return {count: np.concatenate(parts) for count, parts in found.items()}


def _neighbours(bank: np.ndarray, queries: np.ndarray, most: int, temperature: float) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields (index of the first query, vote weights (c,most), bank rows (c,most)) for chunks of c queries, nearest first."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keys = torch.from_numpy(bank).float().to(device)
    scale = keys.norm(dim=1).clamp(min=1e-12).reciprocal()
    most, height = min(most, len(bank)), max(1, CHUNK // len(bank))
    with _products(keys.shape[1]):
        for start in range(0, len(queries), height):
            rows = F.normalize(torch.from_numpy(queries[start : start + height]).float().to(device), dim=1)
            near, index = (rows @ keys.T).mul_(scale).topk(most, dim=1)
            yield start, (near / temperature).exp(), index


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    k: tuple[int, ...] = (20, 200),
    temperature: float = 0.07,
) -> dict[int, float]:
    """Accuracy of `knn_right` -> {k: accuracy}."""
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
