"""Contrastive losses, with negatives from the batch or a queue. See also info_nce.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.gather import gather
from untaught.ops.groups import groups
from untaught.ops.info_nce import both, info_nce, own_rows
from untaught.ops.masking import masked_mean


def queue_info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo's loss. He, Fan, Wu, Xie, Girshick 2020, equation 1, https://arxiv.org/abs/1911.05722

    query, key (B,D) and queue (Q,D), the keys of past batches, all L2-normalised -> a scalar: the mean of -log softmax at the key of
    the same sample. Only the queue's keys are negatives, not the other keys of the batch. Pass `key` without gradient.
    """
    with torch.autocast(query.device.type, enabled=False):
        positive = (query * key).sum(1, keepdim=True)
        logits = torch.cat([positive, query @ queue.T], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def momentum_info_nce(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """MoCo v3's loss. Chen, Xie, He 2021, algorithm 1 (ctr), https://arxiv.org/abs/2104.02057

    query, key (B,D) of the same samples, normalised here -> a scalar: InfoNCE over the gathered keys of all processes, times twice
    the temperature. The method sums it over both directions.
    """
    keys = gather(F.normalize(key.float(), dim=1))
    loss = info_nce(F.normalize(query.float(), dim=1), keys, own_rows(query), temperature)
    return 2 * temperature * loss


def nearest(z: Tensor, queue: Tensor) -> Tensor:
    """z (B,D), queue (Q,D), all L2-normalised -> (B,D): each row's nearest of the queue. Dwibedi et al. 2021, NNCLR, equation 4."""
    with torch.autocast(z.device.type, enabled=False):
        return queue[(z @ queue.T).argmax(1)]


def neighbour_info_nce(neighbour: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """NNCLR's loss. Dwibedi, Aytar, Tompson, Sermanet, Zisserman 2021, equation 3, https://arxiv.org/abs/2104.14548

    neighbour (B,D), the result of `nearest` for one view, and predicted (B,D), of the other view, all L2-normalised -> a scalar:
    InfoNCE of the neighbour over the gathered predictions of all processes.
    """
    return info_nce(neighbour, gather(predicted), own_rows(predicted), temperature)


def decoupled_info_nce(a: Tensor, b: Tensor, temperature: float, sigma: float | None = None) -> Tensor:
    """DCL's loss. Yeh, Hong, Hsu, Liu, Chen, LeCun 2022, equation 6, https://arxiv.org/abs/2110.06848

    a, b (B,D), two views of the same samples, normalised here -> a scalar: NT-Xent without the positive pair in the denominator.
    sigma: if given, positives are weighted by 2 - exp(a.b / sigma) / mean(exp(a.b / sigma)) (DCLW); the weights have no gradient.
    """
    a, b = (F.normalize(z.float(), dim=1) for z in (a, b))
    keys, mine, twin = both(a, b)
    loss = info_nce(torch.cat([a, b]), keys, twin, temperature, exclude=torch.stack([mine, twin], 1))
    if sigma is not None:
        similarity = (a * b).sum(1)
        closeness = (similarity.detach() / sigma).exp()
        weight = 2 - closeness / gather(closeness).mean()
        loss = loss + ((1 - weight) * similarity).mean() / temperature
    return loss


def patch_info_nce(predicted: Tensor, target: Tensor, below: int, group: int = 16, scale: float = 0.1) -> Tensor:
    """CPC's loss on images. van den Oord, Li, Vinyals 2018, equation 4, https://arxiv.org/abs/1807.03748

    predicted, target (B,E,h,w) -> a scalar: the prediction at (i,j), times scale, has its positive at (i + below, j) of the target; all
    other patches of its group of at least `group` samples are negatives.
    """
    height, width = target.shape[2:]
    predicted, target = (groups(z.float().flatten(2).transpose(1, 2), group) for z in (predicted, target))  # (G,n,N,E)
    queries, keys = (scale * predicted[:, :, : (height - below) * width]).flatten(1, 2), target.flatten(1, 2)
    with torch.autocast(keys.device.type, enabled=False):
        logits = queries @ keys.mT
    place = torch.arange(keys.shape[1], device=keys.device).view(-1, height * width)[:, below * width :]
    return F.cross_entropy(logits.flatten(0, 1), place.flatten().repeat(len(keys)))


def later_info_nce(predicted: Tensor, target: Tensor, valid: Tensor, ahead: int, group: int = 16, scale: float = 0.1) -> Tensor:
    """CPC's loss on sequences. van den Oord, Li, Vinyals 2018, equation 4, https://arxiv.org/abs/1807.03748

    predicted, target (B,T,E), valid (B,T) bool -> a scalar: the prediction at t, times scale, has its positive at t + ahead of the target;
    all other valid places of its group of at least `group` samples are negatives. The mean over places whose positive is valid.
    """
    length = target.shape[1] - ahead
    if length < 1:
        return 0 * predicted.float().sum()
    predicted, target = (groups(z.float(), group) for z in (predicted, target))  # (G,n,T,E)
    seen = groups(valid, group)
    counted = (seen[:, :, :length] & seen[:, :, ahead:]).flatten()
    queries, keys = (scale * predicted[:, :, :length]).flatten(1, 2), target.flatten(1, 2)
    with torch.autocast(keys.device.type, enabled=False):
        logits = (queries @ keys.mT).masked_fill(~seen.flatten(1).unsqueeze(1), torch.finfo(torch.float32).min)
    place = torch.arange(keys.shape[1], device=keys.device).view(-1, target.shape[2])[:, ahead:]
    losses = F.cross_entropy(logits.flatten(0, 1), place.flatten().repeat(len(keys)), reduction="none")
    return masked_mean(torch.where(counted, losses, 0.0), counted)


def jensen_shannon(summary: Tensor, vectors: Tensor) -> Tensor:
    """Deep InfoMax's loss. Hjelm et al. 2019, equation 4, negated, https://arxiv.org/abs/1808.06670

    summary (B,E) and vectors (B,N,E) of the same samples -> a scalar: the mean of softplus(-score) over positive pairs (same sample),
    plus the mean of softplus(score) over negative pairs across all processes; scores are dot products.
    """
    everyone, own = gather(summary.float()), own_rows(summary)
    with torch.autocast(summary.device.type, enabled=False):
        score = vectors.float() @ everyone.T  # (B,N,M)
    together = score[torch.arange(len(own), device=score.device), :, own]
    apart = F.softplus(score).sum() - F.softplus(together).sum()
    return F.softplus(-together).mean() + apart / (score.numel() - together.numel())


def margin(a: Tensor, b: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """The contrastive loss with a margin. Hadsell, Chopra, LeCun 2006, equation 4, https://doi.org/10.1109/CVPR.2006.100

    a, b (B,D), two views of the same samples -> two scalars: half the mean squared Euclidean distance of positive pairs, and half the
    mean squared shortfall from the margin of the distances of negative pairs, across all processes.
    """
    a, b = a.float(), b.float()
    together = (a - b).square().sum(1).mean() / 2

    everyone, mine, twin = both(a, b)
    with torch.autocast(a.device.type, enabled=False):
        distance = torch.cdist(torch.cat([a, b]), everyone)
    shortfall = F.relu(margin - distance).square()
    shortfall = shortfall.scatter(1, torch.stack([mine, twin], 1), 0.0)  # negatives only
    apart = shortfall.sum() / (len(mine) * (len(everyone) - 2)) / 2
    return together, apart
