"""Estimators for scikit-learn: pretraining on the rows of a table as a transformer, a classifier and a regressor.

    from untaught.sklearn import SelfSupervisedEncoder
    make_pipeline(SelfSupervisedEncoder(method="scarf"), LogisticRegression()).fit(X, y)

They work in Pipeline, ColumnTransformer, GridSearchCV, clone and pickle. X is an array, or a pandas frame with numbers, categories, dates
and missing values; nothing has to be scaled or encoded before. y never reaches the encoder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.config.overrides import unknown
from untaught.config.registry import method_table
from untaught.console import console
from untaught.core import Preprocessor
from untaught.data.sources import open_source
from untaught.methods.composite import JOINS
from untaught.modalities.table.cells import raw_names
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.pretrained import load_encoder
from untaught.pipeline.view_pipeline import used_view
from untaught.surroundings import cache_in

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {  # named systems: a method of the library and its knobs
    "scarf": ("simclr", {"views": "whole,global", "global.level": 0.6}),
    "subtab": ("simclr+denoising", {"global.corruption": "missing", "corrupted.corruption": "missing"}),
    "tabular_mlm": ("mlm", {}),
}
ROWS = 4096  # encoded at once


class SelfSupervisedEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Trains an encoder on the rows of X without labels; `transform` gives its vectors (n, width) float32.

    method: "scarf", "subtab", "tabular_mlm", or any method of `untaught methods` that reads table rows. encoder: "mlp_table",
    "resnet_table", "ft_transformer"; by default what the method needs. steps: of training; batch_size: by default from the number of rows.
    knobs: further knobs, as on the command line: {"global.level": 0.3, "kinds": "zip:category"}. passthrough: whether `transform` puts the
    row itself (standardised numbers, an indicator per category) before the vector, for a model that may use both. random_state: seeds
    everything. verbose: whether to print what the run prints.

    fit writes nothing that stays. Raises ValueError (UserError) for data and knobs that can't be used.
    """

    def __init__(
        self,
        method: str = "scarf",
        *,
        encoder: str | None = None,
        steps: int = 500,
        batch_size: int | None = None,
        knobs: dict[str, Any] | None = None,
        passthrough: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.encoder = encoder
        self.steps = steps
        self.batch_size = batch_size
        self.knobs = knobs
        self.passthrough = passthrough
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> SelfSupervisedEncoder:
        X = self._checked(X, reset=True)
        if self.method not in SYSTEMS and JOINS not in self.method and self.method not in (known := method_table()):
            raise unknown("method", self.method, [*SYSTEMS, *known])
        method, knobs = SYSTEMS.get(self.method, (self.method, {}))
        seed = int(check_random_state(self.random_state).randint(1 << 31))
        loop = {"steps": self.steps, "seed": seed, "health_every": 0, "evaluate_every": 0, "defaults": "short"}
        loop |= {"batch_size": self.batch_size} if self.batch_size is not None else {}
        chosen = loop | knobs | (self.knobs or {})
        with tempfile.TemporaryDirectory() as folder, _quiet(not self.verbose), cache_in(Path(folder) / "cache"):
            arguments = PretrainArguments(X, method, self.encoder, Path(folder) / "run", "table", knobs=chosen)
            place = pretrain(arguments).path / "encoder"
            self.files_ = {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.is_file()}
        self.__dict__.pop("_opened", None)
        self.width_ = self._open()[0].width
        return self

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        network, prep, view = self._open()
        with _quiet(True), torch.no_grad():
            source = open_source(X, prep.modality)
        records = [record for part in source.parts.values() for record in part]
        found = []
        for start in range(0, len(records), ROWS):
            batch, names = batch_of(records[start : start + ROWS], prep)
            if len(names) < len(records[start : start + ROWS]):
                raise ValueError(f"{len(records) - len(names):,} rows of X can't be read")
            with torch.no_grad():  # in float64: a row's vector must not depend on the other rows of its batch
                vectors = network(view(batch, 0)[0].map_inputs(torch.Tensor.double)).float().numpy()
            found.append(np.hstack([prep.modality.raw(batch, prep), vectors]) if self.passthrough else vectors)
        return np.concatenate(found)

    @property
    def _n_features_out(self) -> int:
        return self.width_

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """selfsupervisedencoder0 ... of the vector; with `passthrough`, the row's columns and COLUMN_VALUE before them."""
        own = super().get_feature_names_out(input_features)
        return np.array([*raw_names(self._open()[1]), *own], object) if self.passthrough else own

    def _checked(self, X: Any, reset: bool) -> Any:
        """X as an array of numbers, or a pandas frame where it holds anything else. Raises ValueError as scikit-learn does."""
        frame = hasattr(X, "iloc") and hasattr(X, "columns") and not hasattr(X, "sparse")
        if frame and not all(getattr(kind, "kind", "O") in "uif" for kind in X.dtypes):
            validate_data(self, X, skip_check_array=True, reset=reset)
            if len(X) < (2 if reset else 1):
                raise ValueError(f"Found array with {len(X)} sample(s) while a minimum of {2 if reset else 1} is required.")
            return X
        X = validate_data(self, X, reset=reset, dtype=None, ensure_all_finite="allow-nan", ensure_min_samples=2 if reset else 1)
        if X.dtype.kind in "uif":
            return X.astype(np.float64)
        import pandas

        return pandas.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])

    def _open(self) -> tuple[Any, Preprocessor, Any]:
        """The encoder in float64, its preprocessor and the view it is used with; opened once in each process."""
        if "_opened" not in self.__dict__:
            with tempfile.TemporaryDirectory() as folder:
                for name, content in self.files_.items():
                    (Path(folder) / name).write_bytes(content)
                network, config, prep = load_encoder(Path(folder))
            self._opened = network.double(), prep, used_view(prep, config["view"])
        return self._opened

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {key: value for key, value in state.items() if key != "_opened"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


class _OnVectors(BaseEstimator):
    """What the classifier and the regressor share: an encoder, and an estimator on its vectors."""

    def __init__(self, encoder: SelfSupervisedEncoder | None = None, estimator: Any = None) -> None:
        self.encoder = encoder
        self.estimator = estimator

    def _fit(self, X: Any, y: Any, unlabelled: Any, default: Any) -> None:
        """unlabelled: further rows like X, for the encoder only."""
        self.encoder_: Any = SelfSupervisedEncoder() if self.encoder is None else clone(self.encoder)
        self.encoder_.fit(X if unlabelled is None else _joined(X, unlabelled))
        self.n_features_in_ = self.encoder_.n_features_in_
        if hasattr(self.encoder_, "feature_names_in_"):
            self.feature_names_in_ = self.encoder_.feature_names_in_
        vectors = self._vectors(X)
        self.estimator_: Any = make_pipeline(StandardScaler(), default) if self.estimator is None else clone(self.estimator)
        self.estimator_.fit(vectors, y)

    def _vectors(self, X: Any) -> np.ndarray:
        """float64, so that sums of the estimator do not depend on the number of rows."""
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True, reset=False)
        return np.asarray(self.encoder_.transform(X), np.float64)

    def predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        vectors = self._vectors(X)
        return self.estimator_.predict(vectors)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        tags.non_deterministic = getattr(self.encoder, "random_state", None) is None
        return tags


class SelfSupervisedClassifier(ClassifierMixin, _OnVectors):
    """An encoder pretrained on X (and on `unlabelled` rows, if given to fit), and a classifier on its vectors.

    encoder: a SelfSupervisedEncoder; estimator: on its vectors, by default logistic regression on standardised ones. With few labels give
    fit all rows there are: `fit(X, y, unlabelled=rest)`.
    """

    def fit(self, X: Any, y: Any, unlabelled: Any = None) -> SelfSupervisedClassifier:
        y = _checked_targets(self, X, y, numeric=False)
        check_classification_targets(y)
        self._fit(X, y, unlabelled, LogisticRegression(max_iter=1000))
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        vectors = self._vectors(X)
        return self.estimator_.predict_proba(vectors)


class SelfSupervisedRegressor(RegressorMixin, _OnVectors):
    """As SelfSupervisedClassifier for numbers; estimator: by default ridge regression on standardised vectors."""

    def fit(self, X: Any, y: Any, unlabelled: Any = None) -> SelfSupervisedRegressor:
        self._fit(X, _checked_targets(self, X, y, numeric=True), unlabelled, Ridge())
        return self


def _checked_targets(estimator: Any, X: Any, y: Any, numeric: bool) -> np.ndarray:
    """y as one value per row. Raises ValueError as scikit-learn does."""
    from sklearn.utils import column_or_1d
    from sklearn.utils.validation import _check_y, check_consistent_length

    if y is None:
        raise ValueError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
    found = _check_y(y, multi_output=False, y_numeric=numeric, estimator=estimator)
    check_consistent_length(X, found)
    return column_or_1d(found)


def _joined(first: Any, second: Any) -> Any:
    """The rows of both: frames with the same columns, or arrays."""
    if hasattr(first, "iloc"):
        import pandas

        return pandas.concat([first, second], ignore_index=True)
    return np.concatenate([np.asarray(first), np.asarray(second)])


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Context in which nothing is printed."""
    before, console.quiet = console.quiet, quiet or console.quiet
    try:
        yield
    finally:
        console.quiet = before


__all__ = ["SelfSupervisedClassifier", "SelfSupervisedEncoder", "SelfSupervisedRegressor"]
