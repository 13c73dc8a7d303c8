"""InfoNCE in chunks of rows: softmax cross-entropy over similarities, with memory linear in the batch.

van den Oord, Li, Vinyals 2018, https://arxiv.org/abs/1807.03748
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.gather import gather, rank, world_size

CHUNK = 1 << 24  # similarities stored at once: 64 MiB in float32


class _InfoNCE(torch.autograd.Function):
    """The gradient of softmax cross-entropy has a closed form, so it is computed chunk by chunk in the forward pass, and only the
    (N,D) and (M,D) results are stored."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        queries: Tensor,
        keys: Tensor,
        scale: Tensor,
        positive: Tensor,
        exclude: Tensor | None,
        weight: Tensor | None,
        valid: Tensor | None,
    ) -> Tensor:
        rows, grad = queries.shape[0], torch.is_grad_enabled() or any(ctx.needs_input_grad)
        loss = queries.new_zeros(())
        d_queries, d_keys = torch.empty_like(queries), torch.zeros_like(keys)
        d_scale = queries.new_zeros(())
        height = max(1, CHUNK // keys.shape[0])
        for start in range(0, rows, height):
            part = slice(start, min(start + height, rows))
            q = queries[part]
            each = torch.arange(q.shape[0], device=q.device)
            cosine = q @ keys.T
            logits = cosine * scale
            found = logits[each, positive[part]]
            if exclude is not None:
                logits.scatter_(1, exclude[part], -torch.inf)
            if valid is not None:
                logits.masked_fill_(~valid, -torch.inf)
            total = logits.logsumexp(1)
            own = None if weight is None else weight[part]
            loss += (total - found).sum() if own is None else torch.where(own > 0, own * (total - found), 0).sum()
            if not grad:
                continue
            logits.sub_(total.unsqueeze(1)).exp_()
            logits[each, positive[part]] -= 1
            if own is not None:
                logits.mul_(own.unsqueeze(1)).masked_fill_(own.unsqueeze(1) == 0, 0)
            d_scale += (logits * cosine).sum()
            d_queries[part] = logits @ keys
            d_keys.addmm_(logits.T, q)
        count = rows if weight is None else 1  # weights hold the 1/N of the mean themselves
        ctx.save_for_backward(d_queries.mul_(scale / count), d_keys.mul_(scale / count), d_scale / count)
        return loss / count

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        d_queries, d_keys, d_scale = ctx.saved_tensors
        return gradient * d_queries, gradient * d_keys, gradient * d_scale, None, None, None, None


def info_nce(
    queries: Tensor,
    keys: Tensor,
    positive: Tensor,
    temperature: float | Tensor,
    exclude: Tensor | None = None,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Mean over the queries of -log softmax(queries keys^T / temperature)[positive].

    queries (N,D), keys (M,D), as they are (normalise them before); positive (N,) the key that each query should find;
    exclude (N,) or (N,K) the keys that are left out of a query's denominator (itself) -> scalar. Float32 whatever the autocast.
    weight (N,): instead of the mean, the sum over queries of weight times loss; a query of weight 0 has no loss and no gradient.
    valid (M,) bool: False for keys that are left out of every denominator.
    Memory beside the inputs and their gradients: about 200 MiB at most, whatever N and M.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scale = 1 / torch.as_tensor(temperature, dtype=torch.float32, device=queries.device)
        exclude = exclude.unsqueeze(1) if exclude is not None and exclude.ndim == 1 else exclude
        return _InfoNCE.apply(queries.float(), keys.float(), scale, positive, exclude, weight, valid)  # type: ignore[return-value]


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (Chen et al. 2020, section 2.1): a, b (B,D), two views of the same samples, normalised here; all other
    rows of both views, across all processes, are negatives -> scalar."""
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    keys, mine, other = both(a, b)
    return info_nce(torch.cat([a, b]), keys, other, temperature, exclude=mine)


def paired_info_nce(a: Tensor, b: Tensor, temperature: float | Tensor) -> Tensor:
    """CLIP's loss. Radford et al. 2021, figure 3, https://arxiv.org/abs/2103.00020

    a, b (B,D), vectors of the two halves of the same pairs, normalised here -> scalar: InfoNCE from a to b and from b to a, averaged. The
    negatives are the other pairs of the batch of all processes. A pair whose half is the vector 0 is incomplete: it has no loss, and its
    halves are no negatives.
    """
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    complete = (a.detach().any(1) & b.detach().any(1)).float()
    everywhere = gather(complete)
    weight, valid = complete * world_size() / everywhere.sum().clamp(min=1), everywhere > 0  # the mean over processes is that over pairs
    own = own_rows(a)
    there = info_nce(a, gather(b), own, temperature, weight=weight, valid=valid)
    back = info_nce(b, gather(a), own, temperature, weight=weight, valid=valid)
    return (there + back) / 2


def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b (B,D), two views of the same samples -> the rows of both views of all processes (2M,D), and the indices in them of each row
    of cat(a, b) (2B,) and of its other view (2B,)."""
    all_a, all_b = gather(a), gather(b)
    first = own_rows(a)
    second = first + all_a.shape[0]
    return torch.cat([all_a, all_b]), torch.cat([first, second]), torch.cat([second, first])


def own_rows(x: Tensor) -> Tensor:
    """x (B,...) of this process -> the indices of its rows after `gather`, (B,)."""
    return torch.arange(x.shape[0], device=x.device) + rank() * x.shape[0]
