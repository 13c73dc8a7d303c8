"""The estimators are scikit-learn's: its own checks, pipelines, searches, clones and pickles; and they learn."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from untaught.console import console
from untaught.core import UserError
from untaught.sklearn import SelfSupervisedClassifier, SelfSupervisedEncoder, SelfSupervisedRegressor

copied: Any = clone

SHORT = SelfSupervisedEncoder(steps=2, random_state=0)
EXPECTED: dict[str, str] = {}  # scikit-learn's checks that an estimator is allowed to fail, with the reason: none


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [SHORT, SelfSupervisedClassifier(SHORT), SelfSupervisedRegressor(SHORT)], expected_failed_checks=lambda one: EXPECTED
)
def test_scikit_learns_checks_pass(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def people(count: int = 240) -> tuple[pd.DataFrame, np.ndarray]:
    """Mixed columns, of which some are noise, and two classes."""
    random = np.random.default_rng(0)
    kind = np.arange(count) % 2
    table = pd.DataFrame(
        {
            "height": kind + random.normal(size=count) * 0.5,
            "town": np.where(random.random(count) < 0.8, np.array(["north", "south"])[kind], "east"),
            "since": pd.Timestamp("2024-01-01") + pd.to_timedelta(random.integers(0, 300, count), "D"),
            "weight": np.where(random.random(count) < 0.2, np.nan, random.normal(size=count)),
            "member": random.random(count) < 0.5,
        }
    )
    return table, np.array(["no", "yes"])[kind]


@pytest.fixture(scope="module")
def encoder() -> SelfSupervisedEncoder:
    return SelfSupervisedEncoder(steps=20, random_state=0).fit(people()[0])


def test_frames_with_mixed_columns_become_vectors(encoder: SelfSupervisedEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    table, _ = people()
    vectors = encoder.transform(table)
    assert vectors.shape == (len(table), 256)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(encoder.transform(table.iloc[[5]]), vectors[[5]])  # whatever the other rows
    unseen = table.iloc[:2].assign(town="overseas", weight=np.nan)
    assert np.isfinite(encoder.transform(unseen)).all()
    assert list(encoder.get_feature_names_out())[:2] == ["selfsupervisedencoder0", "selfsupervisedencoder1"]
    frame = copied(encoder).set_params(steps=2).set_output(transform="pandas").fit(table).transform(table)
    assert list(frame.columns) == list(encoder.get_feature_names_out())
    assert capfd.readouterr().err == ""
    assert not console.quiet


def test_it_is_pickled_and_fitted_again_alike(encoder: SelfSupervisedEncoder) -> None:
    table, _ = people()
    vectors = encoder.transform(table)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(encoder)).transform(table), vectors)
    np.testing.assert_array_equal(copied(encoder).fit(table, y=np.arange(len(table))).transform(table), vectors)  # y is not read
    assert not np.array_equal(copied(encoder).set_params(random_state=1).fit(table).transform(table), vectors)


def test_nothing_stays_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    SelfSupervisedEncoder(steps=2).fit(np.random.default_rng(0).normal(size=(40, 3)))
    assert not list(tmp_path.rglob("*.npy"))


def test_passthrough_puts_the_row_before_the_vector(encoder: SelfSupervisedEncoder) -> None:
    table, _ = people()
    both = SelfSupervisedEncoder(steps=20, random_state=0, passthrough=True).fit(table)
    found = both.transform(table)
    np.testing.assert_array_equal(found[:, -256:], encoder.transform(table))
    height = table["height"].to_numpy()
    np.testing.assert_allclose(found[:, 0], (height - height.mean()) / height.std(), rtol=1e-4, atol=1e-5)
    names = list(both.get_feature_names_out())
    assert len(names) == found.shape[1]
    assert names[-256:] == list(encoder.get_feature_names_out())
    assert names[0] == "height"
    towns = sorted(table["town"].dropna().unique())
    assert sorted(name for name in names if name.startswith("town_"))[: len(towns)] == [f"town_{town}" for town in towns]
    north = names.index(f"town_{towns[0]}")
    np.testing.assert_array_equal(found[:, north], table["town"] == towns[0])


def test_it_works_in_pipelines_searches_and_column_transformers() -> None:
    table, y = people(120)
    columns = ColumnTransformer(
        [("ours", SelfSupervisedEncoder(steps=2, random_state=0), ["height", "town"]), ("rest", StandardScaler(), ["height"])]
    )
    assert make_pipeline(columns, LogisticRegression()).fit(table, y).score(table, y) > 0.8
    pipeline = make_pipeline(SelfSupervisedEncoder(random_state=0), LogisticRegression(max_iter=500))
    search = GridSearchCV(pipeline, {"selfsupervisedencoder__steps": [1, 3]}, cv=2).fit(table, y)
    assert search.best_params_["selfsupervisedencoder__steps"] in (1, 3)


def test_unlabelled_rows_train_the_encoder_of_a_classifier() -> None:
    table, y = people()
    few = np.arange(80)
    model = SelfSupervisedClassifier(SelfSupervisedEncoder(steps=30, random_state=0)).fit(
        table.iloc[few], y[few], unlabelled=table.iloc[80:]
    )
    every = SelfSupervisedEncoder(steps=30, random_state=0).fit(table)
    np.testing.assert_array_equal(model.encoder_.transform(table), every.transform(table))
    assert model.score(table, y) > 0.75
    assert model.predict_proba(table).shape == (len(table), 2)
    assert list(model.classes_) == ["no", "yes"]
    assert len(cross_val_score(SelfSupervisedClassifier(SHORT), table, y, cv=2)) == 2


def test_a_regressor_predicts_numbers() -> None:
    table, _ = people()
    y = 3 * table["height"] + (table["town"] == "north")
    model = SelfSupervisedRegressor(SelfSupervisedEncoder(steps=30, random_state=0)).fit(table, y)
    assert model.score(table, y) > 0.8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SelfSupervisedEncoder(method="scarff"), "unknown method scarff; did you mean scarf"),
        (lambda: SelfSupervisedEncoder(knobs={"global.levle": 0.3}), "did you mean level"),
        (lambda: SelfSupervisedEncoder(encoder="mlp_tabel"), "did you mean mlp_table"),
        (lambda: SelfSupervisedEncoder(steps=0), "steps=0: must be a whole number"),
    ],
)
def test_wrong_parameters_are_one_line(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make().fit(people()[0])


def test_other_rows_than_it_was_fitted_on_are_refused(encoder: SelfSupervisedEncoder) -> None:
    table, _ = people()
    with pytest.raises(ValueError, match="feature names"):
        encoder.transform(table.drop(columns="town"))
    with pytest.raises(ValueError, match="0 sample"):
        encoder.transform(table.iloc[:0])
    with pytest.raises(ValueError, match="1 sample"):
        SelfSupervisedEncoder(steps=1).fit(table.iloc[:1])


@pytest.mark.parametrize("method", ["vime", "subtab", "tabular_mlm", "mae", "autoencoder"])
def test_other_methods_and_encoders_are_the_librarys(method: str) -> None:
    table, _ = people(60)
    assert SelfSupervisedEncoder(method=method, steps=2, random_state=0).fit(table).transform(table).shape[0] == 60


def test_messages_are_printed_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_file", io.StringIO())  # of `file`, a later test would get the stderr of this one
    SelfSupervisedEncoder(steps=1, verbose=True).fit(people(40)[0])
    assert "read as categories: town" in console.file.getvalue()  # type: ignore[attr-defined]
