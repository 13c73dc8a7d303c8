"""InfoNCE in rows of chunks: the loss of a softmax over similarities, with memory linear in the batch.

van den Oord, Li, Vinyals 2018, https://arxiv.org/abs/1807.03748
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.ops.gather import gather, rank

CHUNK = 1 << 24  # similarities held at once: 64 MiB in float32


class _InfoNCE(torch.autograd.Function):
    """The gradient of a softmax cross-entropy is known in closed form, so it is taken chunk by chunk in the forward pass
    and only its (N,D) and (M,D) results are kept."""

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, scale: Tensor, positive: Tensor, exclude: Tensor | None) -> Tensor:  # type: ignore[override]
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
            total = logits.logsumexp(1)
            loss += (total - found).sum()
            if not grad:
                continue
            logits.sub_(total.unsqueeze(1)).exp_()
            logits[each, positive[part]] -= 1
            d_scale += (logits * cosine).sum()
            d_queries[part] = logits @ keys
            d_keys.addmm_(logits.T, q)
        ctx.save_for_backward(d_queries.mul_(scale / rows), d_keys.mul_(scale / rows), d_scale / rows)
        return loss / rows

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[override]
        d_queries, d_keys, d_scale = ctx.saved_tensors
        return gradient * d_queries, gradient * d_keys, gradient * d_scale, None, None


def info_nce(queries: Tensor, keys: Tensor, positive: Tensor, temperature: float | Tensor, exclude: Tensor | None = None) -> Tensor:
    """Mean over the queries of -log softmax(queries keys^T / temperature)[positive].

    queries (N,D), keys (M,D), as they are (normalise them before); positive (N,) the key that each query should find;
    exclude (N,) or (N,K) the keys that are left out of a query's denominator (itself) -> scalar. Float32 whatever the autocast.
    Memory beside the inputs and their gradients: about 200 MiB at most, whatever N and M.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scale = 1 / torch.as_tensor(temperature, dtype=torch.float32, device=queries.device)
        exclude = exclude.unsqueeze(1) if exclude is not None and exclude.ndim == 1 else exclude
        return _InfoNCE.apply(queries.float(), keys.float(), scale, positive, exclude)  # type: ignore[return-value]


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (Chen et al. 2020, section 2.1): a, b (B,D), two views of the same samples, are normalised here; every
    other row of both, of every process, is a negative -> scalar."""
    a, b = F.normalize(a.float(), dim=1), F.normalize(b.float(), dim=1)
    keys, mine, other = both(a, b)
    return info_nce(torch.cat([a, b]), keys, other, temperature, exclude=mine)


def both(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b (B,D), two views of the same samples -> the rows of both, of every process (2M,D), and where among them each row
    of cat(a, b) stands itself (2B,) and its twin (2B,)."""
    all_a, all_b = gather(a), gather(b)
    first = own_rows(a)
    second = first + all_a.shape[0]
    return torch.cat([all_a, all_b]), torch.cat([first, second]), torch.cat([second, first])


def own_rows(x: Tensor) -> Tensor:
    """x (B,...) of this process -> where its rows stand after `gather`, (B,)."""
    return torch.arange(x.shape[0], device=x.device) + rank() * x.shape[0]
