"""Label propagation in videos by frozen features: the mask of the first frame, carried to the others without training.

The protocol of DINO (Caron et al., ICCV 2021, section 4.2.2, https://arxiv.org/abs/2104.14294) and its code, after Jabri, Owens, Efros,
NeurIPS 2020, https://arxiv.org/abs/2006.14613; scores of DAVIS (Perazzi et al., CVPR 2016): region similarity J and contour accuracy F.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from torch import Tensor

QUEUE, TOP, RADIUS, TEMPERATURE = 7, 5, 12, 0.1  # DINO's
TOLERANCE = 0.008  # of the image's diagonal: the distance within which contours match


@torch.no_grad()
def propagate(
    features: Tensor, first: Tensor, queue: int = QUEUE, top: int = TOP, radius: int = RADIUS, temperature: float = TEMPERATURE
) -> Tensor:
    """features (T,D,h,w) of the frames, first (C,h,w), the shares of the classes at each place of the first frame -> (T,C,h,w).

    A place gets the mean label of the `top` most similar places of the first frame and the last `queue` ones, at most `radius` rows and
    columns away, weighted by exp(cosine / temperature).
    """
    frames, _, height, width = features.shape
    vectors = F.normalize(features.flatten(2), dim=1)  # (T,D,N)
    row, column = torch.arange(height), torch.arange(width)
    near = ((row[:, None] - row).abs() <= radius)[:, None, :, None] & ((column[:, None] - column).abs() <= radius)[None, :, None]
    far = ~near.reshape(height * width, -1).to(features.device)  # (N,N)
    labels = [first.flatten(1)]
    for now in range(1, frames):
        sources = [0, *range(max(1, now - queue), now)]
        # (N, S*N), contiguous along the places to choose from: topk is several times slower along the first axis
        similar = torch.cat([(vectors[now].T @ vectors[source]).masked_fill(far, -torch.inf) for source in sources], 1)
        best, places = similar.topk(min(top, similar.shape[1]), 1)
        weights = (best / temperature).softmax(1)  # places out of reach have weight 0
        known = torch.cat([labels[source] for source in sources], 1)  # (C, S*N)
        labels.append((known[:, places] * weights).sum(2))
    return torch.stack(labels).unflatten(2, (height, width))


def masks_of(labels: Tensor, size: tuple[int, int]) -> np.ndarray:
    """labels (T,C,h,w) -> the class of every pixel (T,H,W): upsampled bilinearly, each class scaled to its own range, as in DINO's code."""
    found = F.interpolate(labels, size, mode="bilinear", align_corners=False).flatten(2)
    low, high = found.amin(2, keepdim=True), found.amax(2, keepdim=True)
    scaled = torch.where(high > 0, (found - low) / (high - low).clamp(min=1e-12), found)
    return scaled.unflatten(2, size).argmax(1).cpu().numpy()


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """J: the intersection over union of two masks (H,W) bool; 1 if both are empty."""
    union = (found | truth).sum()
    return float((found & truth).sum() / union) if union else 1.0


def contour_accuracy(found: np.ndarray, truth: np.ndarray) -> float:
    """F: the harmonic mean of precision and recall of the contour pixels of two masks (H,W) bool, matched within the tolerance."""
    own, true = contour(found), contour(truth)
    if not own.any() and not true.any():
        return 1.0
    if not own.any() or not true.any():
        return 0.0
    reach = math.ceil(TOLERANCE * math.hypot(*found.shape))
    offset = np.arange(-reach, reach + 1)
    disk = offset[:, None] ** 2 + offset**2 <= reach**2
    precision = (own & binary_dilation(true, disk)).sum() / own.sum()
    recall = (true & binary_dilation(own, disk)).sum() / true.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: np.ndarray) -> np.ndarray:
    """(H,W) bool -> the pixels that differ from the one to the right, below or both, as in DAVIS's code."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ padded[1:, 1:])
