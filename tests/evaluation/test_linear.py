"""The linear probe against scikit-learn's, and label draws by counting."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from untaught.evaluation import linear
from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.low_label import draw, settings


def crooked(rows: int, width: int = 20, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very different scale, and noisy classes."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(rows, width))
    x = (hidden * np.geomspace(10, 0.01, width)) @ random.normal(size=(width, width)) + 5
    return x.astype(np.float32), (hidden[:, :classes] + random.normal(size=(rows, classes))).argmax(1)


@pytest.mark.parametrize("c", [1e-3, 1.0])
@pytest.mark.parametrize("rows", [400, 15], ids=["more rows than features", "fewer"])
def test_weights_are_those_of_scikit_learn(c: float, rows: int) -> None:
    x, y = crooked(500)
    probe = LinearProbe(x, 0.5 * x[:99] + 1)  # what is tested on has no say in how features are scaled
    chosen = np.arange(rows)
    weights = probe.fit(chosen, np.unique(y[:rows], return_inverse=True)[1], c)
    mine = (probe.test @ weights[:-1] + weights[-1]).softmax(1).numpy()
    scaler = StandardScaler().fit(x)
    fitted = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(scaler.transform(x)[:rows], y[:rows])
    theirs = fitted.predict_proba(scaler.transform(0.5 * x[:99] + 1))
    np.testing.assert_allclose(mine, theirs, atol=2e-3)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    x, y = crooked(200)
    constant = np.concatenate([x, np.full((200, 2), 3, np.float32)], 1)
    plain = LinearProbe(x, x).predict(np.arange(200), y)[0]
    assert (LinearProbe(constant, constant).predict(np.arange(200), y)[0] == plain).mean() > 0.99


def test_labels_keep_their_numbers_and_the_penalty_is_chosen_only_where_labels_suffice() -> None:
    x, y = crooked(600)
    labels = np.array([3, 7, 20, 21])[y]
    probe = LinearProbe(x[:400], x[400:])
    guess, c = probe.predict(np.arange(400), labels[:400])
    assert set(guess) <= {3, 7, 20, 21}
    assert (guess == labels[400:]).mean() > 0.5
    assert c in linear.PENALTIES
    few = draw("2/class", y[:400], 0)
    assert probe.predict(few, labels[few])[1] == 1.0


def test_a_strong_penalty_is_chosen_where_features_are_noise() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(300, 50)).astype(np.float32), random.integers(0, 3, 300)
    assert LinearProbe(x, x).predict(np.arange(300), y)[1] <= 1e-3


@pytest.mark.parametrize("rows", [60, 450], ids=["five folds", "three folds"])
def test_the_penalty_is_the_best_on_held_out_fifths_drawn_by_the_seed(rows: int) -> None:
    x, y = crooked(rows)
    probe = LinearProbe(x, x)
    scaled = StandardScaler().fit_transform(x)
    best, alone = [], []  # by all folds, and by the first of them
    for seed in range(4):
        fold = linear._fifths(y, seed)
        losses = np.zeros((5, len(linear.PENALTIES)))
        for number in range(5 if rows == 60 else 3):
            kept = fold != number
            for place, c in enumerate(linear.PENALTIES):
                fitted = LogisticRegression(C=c, tol=1e-6, max_iter=2000).fit(scaled[kept], y[kept])
                losses[number, place] = log_loss(y[~kept], fitted.predict_proba(scaled[~kept]), labels=fitted.classes_) * (~kept).sum()
        best.append(linear.PENALTIES[losses.sum(0).argmin()])
        alone.append(linear.PENALTIES[losses[0].argmin()])
    assert [probe.predict(np.arange(rows), y, seed)[1] for seed in range(4)] == best
    assert alone != best or rows == 450


def test_fifths_have_a_fifth_of_every_class_and_differ_by_seed() -> None:
    numbers = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 20, 5]))
    for seed in range(3):
        table = np.zeros((3, 5), int)
        np.add.at(table, (numbers, linear._fifths(numbers, seed)), 1)
        assert table.tolist() == [[10] * 5, [4] * 5, [1] * 5]
    assert (linear._fifths(numbers, 0) != linear._fifths(numbers, 1)).mean() > 0.5


def test_one_class_is_always_guessed() -> None:
    x, _ = crooked(30)
    assert (LinearProbe(x, x).predict(np.arange(30), np.full(30, 5))[0] == 5).all()


def test_a_class_of_one_row_is_learnt_from() -> None:
    x, y = crooked(100, classes=3)
    y[y == 2] = 0
    y[0] = 2
    guess, _ = LinearProbe(x, x).predict(np.arange(100), y)
    assert set(guess) <= {0, 1, 2}


def test_draws_take_so_many_of_each_class_and_differ_by_seed() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 1])
    for setting, wanted in {"1/class": [1, 1, 1], "5/class": [5, 5, 1], "10%": [10, 5, 1], "1%": [1, 1, 1]}.items():
        rows = draw(setting, labels, 0)
        assert np.bincount(labels[rows]).tolist() == wanted
        assert (np.diff(rows) > 0).all()
        assert draw(setting, labels, 0).tolist() == rows.tolist()
        assert draw(setting, labels, 1).tolist() != rows.tolist()


def test_a_share_is_rounded_class_by_class() -> None:
    labels = np.repeat([0, 1, 2], [17, 14, 38])
    assert np.bincount(labels[draw("10%", labels, 0)]).tolist() == [2, 1, 4]


def test_a_setting_is_a_draw_while_one_class_has_more_rows() -> None:
    said = dict(settings(np.repeat([0, 1], [40, 3])))
    assert [setting for setting, against in said.items() if not against] == ["1/class", "2/class", "5/class", "10/class", "10%"]


def test_settings_that_are_no_draw_are_named() -> None:
    said = dict(settings(np.repeat(np.arange(10), 9)))
    assert [setting for setting, against in said.items() if not against] == ["1/class", "2/class", "5/class"]
    assert said["10%"] == "9 labels are fewer than the 10 classes"
    assert "9 training rows" in said["10/class"]
