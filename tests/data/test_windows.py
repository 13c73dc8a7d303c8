"""Windows of series: their contents by loops, and their parts in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from untaught.data.windows import FUTURE, Windows


def stored(*lengths: int) -> Any:
    """Series whose values are 100 times their number plus the step, in two channels."""
    columns = [100 * number + np.arange(length)[:, None] + np.array([0.0, 0.5]) for number, length in enumerate(lengths)]
    ends = np.cumsum([0, *lengths])
    names = lambda index: [f"s{i}" for i in index]  # noqa: E731
    return SimpleNamespace(columns={"values": np.concatenate(columns).astype(np.float32)}, offsets={"values": ends}, names=names)


def test_windows_by_loops() -> None:
    lengths, context, horizon = (7, 3, 5, 9), 3, 2
    windows = Windows(stored(*lengths), context, horizon)
    expected = [(s, start) for s, length in enumerate(lengths) for start in range(length - context - horizon + 1)]
    assert len(windows) == len(expected)
    batch = windows.gather(np.arange(len(windows)))
    for i, (series, start) in enumerate(expected):
        steps = 100 * series + start + np.arange(context + horizon)
        assert batch["values"][i, :, 0].tolist() == steps[:context].tolist()
        assert batch[FUTURE][i, :, 1].tolist() == (steps[context:] + 0.5).tolist()
        assert windows.names(np.array([i])) == [f"s{series} step {start + context}"]
    assert batch["values_valid"].all()


@pytest.mark.parametrize("ends", [(10.0, 14.0, 20.0), (0.5, 0.7, 1.0)])
def test_parts_by_the_published_protocol(ends: tuple[float, float, float]) -> None:
    """Validation and test are cut from their first step less the context, so that their windows number length - horizon + 1."""
    windows = Windows(stored(20), 4, 3)
    parts = windows.in_time(ends)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [10 - 4 - 3 + 1, 4 - 3 + 1, 6 - 3 + 1]
    first = {name: windows.gather(rows[:1])[FUTURE][0, 0, 0] for name, rows in parts.items()}
    assert first == {"train": 4, "val": 10, "test": 14}
    last = {name: windows.gather(rows[-1:])[FUTURE][0, -1, 0] for name, rows in parts.items()}
    assert last == {"train": 9, "val": 13, "test": 19}
