"""Equal shares for the prototypes, a distribution for every sample."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from untaught.ops.sinkhorn import sinkhorn

SCORES = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_is_the_papers_iteration_in_loops() -> None:
    rows, columns = SCORES.shape
    q = [[float((SCORES[b, k] / 0.1).exp()) for k in range(columns)] for b in range(rows)]
    for _ in range(3):
        for k in range(columns):
            got = sum(q[b][k] for b in range(rows))
            for b in range(rows):
                q[b][k] /= got * columns
        for b in range(rows):
            got = sum(q[b])
            q[b] = [value / (got * rows) for value in q[b]]
    torch.testing.assert_close(sinkhorn(SCORES, 0.1), torch.tensor(q) * rows, atol=1e-5, rtol=1e-4)


def test_it_is_lightlys() -> None:
    lightly = pytest.importorskip("lightly.loss.swav_loss")
    torch.testing.assert_close(sinkhorn(SCORES, 0.05), lightly.sinkhorn(SCORES, iterations=3, epsilon=0.05))


def test_many_iterations_give_every_prototype_as_much() -> None:
    q = sinkhorn(SCORES, 0.3, iterations=50)
    torch.testing.assert_close(q.sum(0), torch.full((5,), 8 / 5))
    torch.testing.assert_close(q.sum(1), torch.ones(8))


def test_without_iterations_it_is_a_softmax() -> None:
    torch.testing.assert_close(sinkhorn(SCORES, 0.1, iterations=0), (SCORES / 0.1).softmax(1))


def test_a_sample_that_does_not_count_changes_no_other() -> None:
    valid = torch.tensor([True] * 6 + [False] * 2)
    q = sinkhorn(SCORES, 0.1, valid=valid)
    torch.testing.assert_close(q[:6], sinkhorn(SCORES[:6], 0.1))
    torch.testing.assert_close(q.sum(1), torch.ones(8))


@pytest.mark.parametrize("valid", [None, torch.zeros(8, dtype=torch.bool)])
def test_what_no_sample_is_near_stays_finite(valid: torch.Tensor | None) -> None:
    scores = SCORES.clone()
    scores[:, 2] = -1
    q = sinkhorn(scores, 0.005, valid=valid)
    assert q.isfinite().all()
    torch.testing.assert_close(q.sum(1), torch.ones(8))


def test_two_processes_share_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, parts = threading.Barrier(2), {}

    def gather(x: torch.Tensor) -> torch.Tensor:
        parts[threading.current_thread().name] = x
        meeting.wait(10)
        joint = torch.cat([parts[name] for name in sorted(parts)])
        meeting.wait(10)
        return joint

    monkeypatch.setattr("untaught.ops.sinkhorn.gather", gather)
    with ThreadPoolExecutor(2, thread_name_prefix="process") as pool:
        found = torch.cat(list(pool.map(lambda part: sinkhorn(part, 0.05), SCORES.split([3, 5]))))
    monkeypatch.undo()
    torch.testing.assert_close(found, sinkhorn(SCORES, 0.05))
