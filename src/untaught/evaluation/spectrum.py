"""Label-free metrics of features: effective rank, eigenvalue decay, alignment and uniformity."""

from __future__ import annotations

import numpy as np

from untaught.evaluation.interval import Row, Z, row

FOLDS = 10
PAIRS = 2_000  # rows whose pairwise distances measure the uniformity


def rankme(features: np.ndarray) -> float:
    """Effective rank: exp of the entropy of the normalised singular values, from 1 to D.

    Garrido et al., ICML 2023, https://arxiv.org/abs/2210.02885, equations 1 and 2. features (N,D), not centred.
    """
    x = features.astype(np.float64)
    return _rankme(x.T @ x)


def alpha_req(features: np.ndarray) -> float:
    """Decay of the covariance eigenvalues: alpha of a fit of rank^-alpha to ranks 12 to 100; about 1 is good.

    Agrawal et al., NeurIPS 2022, https://arxiv.org/abs/2202.05808; the fit, each rank weighted by 1/rank, is that of Stringer
    et al., Nature 2019. For narrower features, ranks start at an eighth of the width. features (N,D); NaN under 3 ranks.
    """
    x = features.astype(np.float64)
    return _alpha(x.T @ x, x.sum(0), len(x))


def alignment(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared distance between two views of a sample on the unit sphere, 0 to 4. Wang and Isola, ICML 2020, https://arxiv.org/abs/2005.10242."""
    return float(_distances(a, b).mean())


def uniformity(features: np.ndarray) -> float:
    """log of the mean of exp(-2 squared distance) over pairs on the unit sphere, from 0 (one point) to about -4. Wang and Isola 2020."""
    x = _unit(features)
    inside = np.exp(4 * (x @ x.T) - 4)
    return float(np.log((inside.sum() - np.trace(inside)) / (len(x) * (len(x) - 1))))


def spectrum_rows(features: np.ndarray, pairs: tuple[np.ndarray, np.ndarray] | None = None) -> list[Row]:
    """Rows of rankme, alpha, uniformity of features (N,D), and alignment of view pairs (P,D). Intervals by jackknife over ten folds."""
    folds = [part.astype(np.float64) for part in np.array_split(features, FOLDS) if len(part)]
    grams, sums, counts = [x.T @ x for x in folds], [x.sum(0) for x in folds], [len(x) for x in folds]
    gram, total, count = np.sum(grams, 0), np.sum(sums, 0), sum(counts)
    less = range(len(folds)) if len(folds) == FOLDS else range(0)
    result = [
        _jackknife("rankme", _rankme(gram), [_rankme(gram - grams[i]) for i in less]),
        _jackknife("alpha", _alpha(gram, total, count), [_alpha(gram - grams[i], total - sums[i], count - counts[i]) for i in less]),
    ]
    some = features[:: -(-len(features) // PAIRS)]
    if len(some) > 2:
        parts = np.arange(len(some)) % FOLDS
        left = [some[parts != i] for i in range(FOLDS) if len(some) >= 3 * FOLDS]
        result.append(_jackknife("uniformity", uniformity(some), [uniformity(part) for part in left]))
    if pairs is not None:
        each = _distances(*pairs)
        half = Z * float(each.std() / np.sqrt(len(each)))
        mean = float(each.mean())
        result.append(row("spectrum", "none", "alignment", mean, max(0.0, mean - half), mean + half, 1))
    return [found for found in result if np.isfinite(found["mean"])]


def _jackknife(metric: str, value: float, without: list[float]) -> Row:
    """Interval from the values with one fold left out at a time. Tukey 1958."""
    values = np.array(without)
    half = Z * float(np.sqrt((len(values) - 1) * values.var())) if len(values) else 0.0
    return row("spectrum", "none", metric, value, value - half, value + half, 1)


def _rankme(gram: np.ndarray) -> float:
    values = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    p = values / max(values.sum(), 1e-12) + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def _alpha(gram: np.ndarray, total: np.ndarray, count: int) -> float:
    covariance = gram - np.outer(total, total) / count
    values = np.linalg.eigvalsh(covariance)[::-1]
    values = values[: max(0, count - 1)]
    values = values[values > 1e-10 * max(values.max(initial=0.0), 1e-30)]
    ranks = np.arange(min(12, len(values) // 8 + 1), min(100, len(values)) + 1)
    if len(ranks) < 3:
        return float("nan")
    x, y, weight = np.log(ranks), np.log(values[ranks - 1]), 1 / ranks
    x, y = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
    return float(-(weight * x * y).sum() / (weight * x * x).sum())


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.square(_unit(a) - _unit(b)).sum(1)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
