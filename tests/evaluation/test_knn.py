"""kNN against a loop, and encoding that leaves the encoder as it was."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from untaught.core import View
from untaught.evaluation import knn
from untaught.evaluation.features import collect, encode
from untaught.evaluation.knn import knn_accuracy

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # bank, its labels, queries, theirs


def by_loops(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, k: int, temperature: float) -> float:
    right = 0
    for query, label in zip(queries.astype(float), truth, strict=True):
        cosine = [float(query @ key / (np.linalg.norm(query) * np.linalg.norm(key))) for key in bank.astype(float)]
        votes = dict.fromkeys(range(10), 0.0)
        for i in sorted(range(len(bank)), key=lambda i: -cosine[i])[:k]:
            votes[int(labels[i])] += math.exp(cosine[i] / temperature)
        right += max(votes, key=lambda c: votes[c]) == label
    return right / len(queries)


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(0)
    labels, truth = rng.integers(0, 4, 60), rng.integers(0, 4, 25)
    centres = rng.normal(size=(4, 6))
    bank, queries = (centres[y] + rng.normal(size=(len(y), 6)) for y in (labels, truth))
    return bank.astype(np.float32), labels, queries.astype(np.float32), truth


@pytest.mark.parametrize("chunk", [1, 300, 1 << 26])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_accuracy_is_that_of_a_loop(data: Data, chunk: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knn, "CHUNK", chunk)
    found = knn_accuracy(*data, k=(1, 7, 20), temperature=temperature)
    assert found == {k: by_loops(*data, k, temperature) for k in (1, 7, 20)}
    assert 0.25 < found[7] < 1


def test_a_k_above_the_bank_is_all_of_it(data: Data) -> None:
    found = knn_accuracy(*data, k=(60, 999), temperature=5.0)
    assert found == {k: by_loops(*data, 60, 5.0) for k in (60, 999)}


def test_of_a_whole_bank_the_farthest_votes_too() -> None:
    bank = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.3]], np.float32)
    query = np.array([[1.0, 0.1]], np.float32)
    assert knn_accuracy(bank, np.array([0, 1, 1]), query, np.array([1]), k=(2, 9), temperature=100.0) == {2: 0.0, 9: 1.0}


def test_a_sample_is_its_own_nearest(data: Data) -> None:
    bank, labels, *_ = data
    assert knn_accuracy(bank, labels, bank, labels, k=(1,)) == {1: 1.0}


def test_length_does_not_matter(data: Data) -> None:
    bank, labels, queries, truth = data
    lengths = np.linspace(0.1, 9, len(bank), dtype=np.float32)[:, None]
    assert knn_accuracy(bank * lengths, labels, queries * 5, truth) == knn_accuracy(*data)


def test_a_class_that_the_bank_has_not_is_never_right(data: Data) -> None:
    bank, labels, queries, truth = data
    assert knn_accuracy(bank, labels, queries, truth + 4, k=(5,)) == {5: 0.0}


class Plain(nn.Sequential):
    def forward(self, view: View) -> Tensor:
        return super().forward(view.x)


def encoder() -> nn.Module:
    return Plain(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)))


BATCHES = [{"x": torch.randn(5, 3), "index": torch.arange(5) + 5 * i} for i in range(3)]


def run(module: nn.Module, bf16: bool = False):
    return encode(module, BATCHES, lambda batch: View(batch["x"]), torch.device("cpu"), bf16)


@pytest.mark.parametrize("training", [True, False])
def test_encode_works_in_eval_mode_and_puts_the_mode_back(training: bool) -> None:
    module = encoder().train(training)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    features = collect(run(module), 15)
    assert module.training is training
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    with torch.no_grad():
        want = module.eval()(View(torch.cat([batch["x"] for batch in BATCHES]))).numpy()
    np.testing.assert_allclose(features, want, atol=1e-6)


def test_the_mode_is_put_back_when_encoding_breaks_or_stops() -> None:
    module = encoder()
    with pytest.raises(RuntimeError):
        list(
            encode(module, [{"x": torch.zeros(2, 9), "index": torch.arange(2)}], lambda batch: View(batch["x"]), torch.device("cpu"), False)
        )
    assert module.training
    parts: Any = run(module)
    next(parts)
    parts.close()
    assert module.training


def test_features_are_float32_with_their_index_even_in_bf16() -> None:
    for i, (index, features) in enumerate(run(encoder(), bf16=True)):
        assert features.dtype == np.float32
        assert index.tolist() == list(range(5 * i, 5 * i + 5))
