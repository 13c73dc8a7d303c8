"""Cross-entropy between a student's distribution over prototypes and a teacher's, or soft assignments. Inputs are logits (cosines)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from untaught.ops.cross_view import cross_view_entropy, token_entropy
from untaught.ops.gather import gather
from untaught.ops.sinkhorn import sinkhorn


def centred(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """teacher (...,K), centre (K,) -> (...,K): the teacher's distribution, centred and sharpened. Caron et al. 2021, DINO, section 3.1."""
    return ((teacher - centre) / temperature).softmax(-1)


def dino(student: Tensor, teacher: Tensor, centre: Tensor, temperature: float = 0.1, teacher_temperature: float = 0.04) -> Tensor:
    """DINO's loss. Caron, Touvron, Misra, Jegou et al. 2021, equation 3 and algorithm 1, https://arxiv.org/abs/2104.14294

    student (S,B,K) of S views, teacher (T,B,K) of the first T <= S of them, centre (K,) -> a scalar: cross-entropy averaged over pairs
    of different views and the batch. The centre is a moving average of the teacher's mean over batch and views (equation 4).
    """
    target = centred(teacher, centre, teacher_temperature)
    return cross_view_entropy((student / temperature).log_softmax(-1), target)


def ibot_tokens(
    student: Tensor, teacher: Tensor, mask: Tensor, centre: Tensor, temperature: float = 0.1, teacher_temperature: float = 0.04
) -> Tensor:
    """iBOT's loss at masked tokens. Zhou et al. 2022, equation 3, https://arxiv.org/abs/2111.07832

    student, teacher (B,N,K) of the same tokens, mask (B,N) bool, the tokens masked for the student; centre (K,) -> a scalar: averaged
    over the masked tokens of a sample, then over samples. The loss of pooled vectors is `dino`.
    """
    return token_entropy((student / temperature).log_softmax(-1), centred(teacher, centre, teacher_temperature), mask)


def swapped_prediction(scores: Tensor, assigned: Tensor, temperature: float = 0.1) -> Tensor:
    """SwAV's loss. Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, equations 1 and 2, https://arxiv.org/abs/2006.09882

    scores (S,B,K), cosines of S views to the prototypes; assigned (T,B,K), soft assignments of the first T <= S of them from
    `sinkhorn` -> a scalar: cross-entropy averaged over pairs of different views and the batch.
    """
    return cross_view_entropy((scores / temperature).log_softmax(-1), assigned)


def msn(anchors: Tensor, target: Tensor, temperature: float = 0.1, sharpening: float = 0.25, iterations: int = 3) -> tuple[Tensor, Tensor]:
    """MSN's two terms. Assran et al. 2022, equation 1, https://arxiv.org/abs/2204.07141

    anchors (A x B, K), cosines of A views of B samples to the prototypes, view by view; target (B,K), the teacher's -> two scalars: the
    cross-entropy with the sharpened target, balanced over prototypes by `iterations` of Sinkhorn-Knopp (0: not balanced), and the
    maximum entropy minus the entropy of the anchors' mean assignment over all processes (me-max).
    """
    log_student = (anchors / temperature).log_softmax(-1)
    sharp = ((target / temperature).log_softmax(-1) / sharpening).log_softmax(-1)
    balanced = sinkhorn(sharp, 1.0, iterations).repeat(len(anchors) // len(target), 1)
    mean = gather(log_student.exp().mean(0, keepdim=True)).mean(0)
    return -(balanced * log_student).sum(-1).mean(), math.log(len(mean)) - torch.special.entr(mean).sum()
