"""The queue keeps the newest, and is a module whose state goes round."""

from __future__ import annotations

import torch

from untaught.blocks.queue import Queue


def test_the_newest_vectors_replace_the_oldest() -> None:
    queue, width = Queue(5, 1), 1
    assert torch.allclose(queue.vectors.norm(dim=1), torch.ones(5))
    pushed: list[float] = []
    for size in (2, 2, 3, 1, 7, 5, 4):  # more than there is room for, too
        rows = torch.arange(len(pushed), len(pushed) + size).float().view(size, width)
        pushed += rows.flatten().tolist()
        queue.push(rows)
        if len(pushed) >= 5:
            assert sorted(queue.vectors.flatten().tolist()) == pushed[-5:]
            assert queue.vectors[queue.oldest].item() == pushed[-5]


def test_a_queue_that_was_saved_goes_on() -> None:
    one, other = Queue(5, 2), Queue(5, 2)
    one.push(torch.randn(3, 2))
    other.load_state_dict(one.state_dict())
    rows = torch.randn(4, 2)
    one.push(rows)
    other.push(rows)
    assert torch.equal(one.vectors, other.vectors)
