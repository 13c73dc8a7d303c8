"""Groups of a batch: equal, of the size that was asked or a few more, every sample in one."""

from __future__ import annotations

import pytest
import torch

from untaught.ops.groups import groups


@pytest.mark.parametrize(("rows", "size", "shape"), [(12, 4, (3, 4)), (12, 5, (2, 6)), (14, 4, (2, 7)), (13, 4, (1, 13)), (3, 4, (1, 3))])
def test_groups_are_equal_and_have_the_size_or_more(rows: int, size: int, shape: tuple[int, int]) -> None:
    found = groups(torch.arange(rows), size)
    assert found.shape == shape
    assert sorted(found.flatten().tolist()) == list(range(rows))


def test_two_processes_have_the_groups_of_one() -> None:
    x = torch.arange(24)
    alone = {frozenset(group.tolist()) for group in groups(x, 4)}
    shared = {frozenset(group.tolist()) for place in range(2) for group in groups(x[place::2], 4)}
    assert len(alone) == 6
    assert alone == shared


def test_fields_beyond_the_first_stay_as_they_are() -> None:
    x = torch.randn(6, 2, 3)
    torch.testing.assert_close(groups(x, 3), torch.stack([x[0::2], x[1::2]]))
