"""A two-dimensional map of an embedding. t-SNE: van der Maaten and Hinton 2008, JMLR 9, on cosine distances."""

from __future__ import annotations

import numpy as np

FEW = 12  # minimum number of samples for t-SNE
COMPONENTS = 32  # principal components before t-SNE


def plane(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """features (N,D) float -> points (N,2) float32 in 0..1; distances between far groups mean nothing; collapse gives one point."""
    x = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    x = x - x.mean(0)
    if len(x) < 3 or np.abs(x).max() < 1e-5:
        return np.full((len(x), 2), 0.5, np.float32)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    x = PCA(min(COMPONENTS, *x.shape), random_state=seed).fit_transform(x)
    first = np.pad(x[:, :2], ((0, 0), (0, max(0, 2 - x.shape[1]))))
    if len(x) >= FEW:
        start = (1e-4 * first / first[:, 0].std()).astype(np.float32)
        first = TSNE(perplexity=min(30, len(x) / 4), init=start, max_iter=500, random_state=seed).fit_transform(x)
    low, high = first.min(0), first.max(0)
    return ((first - low) / np.maximum(high - low, 1e-12).max()).astype(np.float32)
