"""Calibration of predicted probabilities. Guo et al., ICML 2017, https://arxiv.org/abs/1706.04599."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax
from scipy.special import softmax as scipy_softmax


def softmax(logits: np.ndarray) -> np.ndarray:
    """logits (N,K) -> probabilities (N,K) float64."""
    return scipy_softmax(logits.astype(np.float64), axis=1)


def cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(truth) over samples, in nats; logits (N,K), truth (N,) int."""
    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(truth)), truth].mean())


def best_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature T in [1/20, 20] that minimises the cross-entropy of logits / T (section 4.2)."""
    found = minimize_scalar(lambda t: cross_entropy(logits / np.exp(t), truth), bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """logits (N,K) -> probabilities (N,K) float64."""
    return expit(logits.astype(np.float64))


def binary_cross_entropy(logits: np.ndarray, truth: np.ndarray) -> float:
    """Sum over classes of -log p(truth), mean over samples, in nats; logits, truth (N,K), truth of 0 and 1."""
    return float(np.logaddexp(0, np.where(truth == 1, -1.0, 1.0) * logits.astype(np.float64)).sum(1).mean())


def best_binary_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """As `best_temperature`, for the binary cross-entropy."""
    found = minimize_scalar(lambda t: binary_cross_entropy(logits / np.exp(t), truth), bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (section 2): |accuracy - confidence| in equal-width bins of confidence (N,), weighted by bin size."""
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = np.bincount(place, right.astype(np.float64) - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
