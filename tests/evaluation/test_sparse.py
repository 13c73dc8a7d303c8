"""Bags of words: against scikit-learn's TfidfVectorizer and LogisticRegression, and neighbours in a plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from untaught.evaluation import sparse
from untaught.evaluation.sparse import PENALTIES, SparseProbe, knn_right, weigh

WORLDS = (
    "cat dog garden sun small green sleeps plays",
    "ship storm harbour sails wind deep sinks leaves",
    "vote law city paper speaks answers long house",
)
RANDOM = np.random.default_rng(0)


def documents(count: int, clear: float = 0.4) -> tuple[list[str], np.ndarray]:
    """Documents of three kinds, of whose words the share `clear` is of their own kind."""
    labels = np.arange(count) % 3
    every = " ".join(WORLDS).split()
    texts = []
    for label in labels:
        own = WORLDS[label].split()
        texts.append(" ".join(RANDOM.choice(own if RANDOM.random() < clear else every) for _ in range(12)))
    return texts, labels


@pytest.fixture(scope="module")
def data() -> tuple[list[str], np.ndarray, list[str], np.ndarray]:
    return *documents(90), *documents(60)


def counts(texts: list[str]) -> Any:
    """Hashed, as a modality gives them."""
    unscaled: Any = None
    return HashingVectorizer(n_features=1 << 18, alternate_sign=False, norm=unscaled).transform(texts)


def test_weights_are_tfidfs(data: tuple[list[str], np.ndarray, list[str], np.ndarray]) -> None:
    train, _, test, _ = data
    test = [*test, "unseen words alone", "cat unseen"]
    own = weigh(counts(train), counts(test))
    vectorizer = TfidfVectorizer()
    want: Any = vectorizer.fit_transform(train), vectorizer.transform(test)
    assert own[0].shape == want[0].shape
    for a, b in ((0, 0), (1, 0), (1, 1)):  # the columns' order is the hash's
        np.testing.assert_allclose((own[a] @ own[b].T).toarray(), (want[a] @ want[b].T).toarray(), atol=1e-12)


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_the_probe_is_scikit_learns(c: float, data: tuple[list[str], np.ndarray, list[str], np.ndarray]) -> None:
    train, labels, test, right = data
    rows = np.arange(10, 80)
    probe = SparseProbe(*weigh(counts(train), counts(test)))
    found, chosen = probe.predict(rows, labels[rows], c=c)
    vectorizer = TfidfVectorizer().fit(train)
    model = LogisticRegression(C=c, max_iter=200).fit(vectorizer.transform([train[i] for i in rows]), labels[rows])
    assert chosen == c
    assert np.array_equal(found, model.predict(vectorizer.transform(test)))
    assert (found == right).mean() > 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_c_is_the_best_on_a_fifth_of_the_rows(seed: int, data: tuple[list[str], np.ndarray, list[str], np.ndarray]) -> None:
    from sklearn.model_selection import StratifiedKFold

    train, labels, test, _ = data
    wrong = np.random.default_rng(seed).random(90) < 0.3  # labels that can only be learned by heart
    labels = np.where(wrong, (labels + 1) % 3, labels)
    x, y = weigh(counts(train), counts(test))
    rows = np.arange(90)
    kept, judged = next(StratifiedKFold(5, shuffle=True, random_state=seed).split(rows, labels))
    models = [LogisticRegression(C=c, max_iter=200).fit(x[kept], labels[kept]) for c in PENALTIES]
    best = int(np.argmax([model.score(x[judged], labels[judged]) for model in models]))
    assert best < int(np.argmax([model.score(x[kept], labels[kept]) for model in models]))
    assert SparseProbe(x, y).predict(rows, labels, seed=seed)[1] == PENALTIES[best]
    assert len(judged) == 18


@pytest.mark.parametrize(
    "rows", [[0, 1], [0, 1, 2, 3, 4, 5], [*range(0, 90, 3), 1, 2]], ids=["one a class", "two a class", "a class of one"]
)
def test_of_few_labels_nothing_is_chosen(rows: list[int], data: tuple[list[str], np.ndarray, list[str], np.ndarray]) -> None:
    train, labels, test, _ = data
    assert SparseProbe(*weigh(counts(train), counts(test))).predict(np.array(rows), labels[rows])[1] == 1.0


@pytest.mark.parametrize("chunk", [1 << 26, 500, 1], ids=["one chunk", "some", "a query each"])
def test_neighbours_are_a_plain_loops(
    chunk: int, monkeypatch: pytest.MonkeyPatch, data: tuple[list[str], np.ndarray, list[str], np.ndarray]
) -> None:
    monkeypatch.setattr(sparse, "CHUNK", chunk)
    train, labels, test, right = data
    vectorizer = TfidfVectorizer(vocabulary=CountVectorizer().fit(train).vocabulary_)
    bank: Any = vectorizer.fit_transform(train)
    queries: Any = vectorizer.transform(test)
    found = knn_right(bank, labels, queries, right, k=(5, 200), temperature=0.07)
    similar = (queries @ bank.T).toarray()
    for k in (5, 200):
        want, close = [], []
        for row, label in zip(similar, right, strict=True):
            near = sorted(range(90), key=lambda i: -row[i])[:k]
            votes = [sum(math.exp(row[i] / 0.07) for i in near if labels[i] == c) for c in range(3)]
            want.append(votes.index(max(votes)) == label)
            close.append(
                len({round(row[i], 9) for i in range(90)} & {round(row[near[-1]], 9)}) and (np.isclose(row, row[near[-1]]).sum() > 1)
            )
        sure = ~np.array(close) if k == 5 else np.ones(60, bool)  # a tie at the last neighbour may go either way
        assert sure.sum() > 20
        assert np.array_equal(found[k][sure], np.array(want)[sure])
        assert found[k].mean() > 0.6
