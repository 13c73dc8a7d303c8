"""The methods' objectives as functions of tensors, for your own loops and heads.

All compute in float32, even under autocast. With several processes the batch is gathered: the mean of the returned values over
processes is the loss of the joint batch (see `untaught.ops.gather`). Temperatures, weights and moving averages are up to the caller.
"""

from untaught.ops.contrastive import (
    decoupled_info_nce,
    jensen_shannon,
    margin,
    momentum_info_nce,
    nearest,
    neighbour_info_nce,
    patch_info_nce,
    queue_info_nce,
)
from untaught.ops.cosine import cosine_distance, negative_cosine
from untaught.ops.cross_entropy import linear_cross_entropy, mean_cross_entropy
from untaught.ops.cross_view import cross_view_entropy, token_entropy
from untaught.ops.decorrelation import barlow_twins, vicreg, vicreg_terms
from untaught.ops.info_nce import info_nce, nt_xent, paired_info_nce
from untaught.ops.kmeans import centroid_cross_entropy, spherical_kmeans
from untaught.ops.koleo import koleo
from untaught.ops.reconstruction import masked_reconstruction, masked_smooth_l1, replaced_token_detection
from untaught.ops.self_distillation import dino, ibot_tokens, msn, swapped_prediction
from untaught.ops.sigreg import sigreg
from untaught.ops.sinkhorn import sinkhorn
from untaught.ops.whitening import w_mse, whiten

__all__ = [
    "barlow_twins",
    "centroid_cross_entropy",
    "cosine_distance",
    "cross_view_entropy",
    "decoupled_info_nce",
    "dino",
    "ibot_tokens",
    "info_nce",
    "jensen_shannon",
    "koleo",
    "linear_cross_entropy",
    "margin",
    "masked_reconstruction",
    "masked_smooth_l1",
    "mean_cross_entropy",
    "momentum_info_nce",
    "msn",
    "nearest",
    "negative_cosine",
    "neighbour_info_nce",
    "nt_xent",
    "paired_info_nce",
    "patch_info_nce",
    "queue_info_nce",
    "replaced_token_detection",
    "sigreg",
    "sinkhorn",
    "spherical_kmeans",
    "swapped_prediction",
    "token_entropy",
    "vicreg",
    "vicreg_terms",
    "w_mse",
    "whiten",
]
