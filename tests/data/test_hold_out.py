"""Labels by number and name, and what is held out of them: by counting."""

from __future__ import annotations

import numpy as np
import pytest

from untaught.data.labels import hold_out, number_labels, numbered, sort_classes
from untaught.data.parts import held_out_part, sort_parts


def test_classes_that_are_numbers_are_in_the_order_of_numbers() -> None:
    assert sort_classes({"10", "9", "2", "-3"}) == ["-3", "2", "9", "10"]
    assert sort_classes({"b10", "b9", "a"}) == ["a", "b10", "b9"]
    assert sort_classes({"10", "9", "nine"}) == ["10", "9", "nine"]
    assert numbered(["10", None, "9", "10"]) == {"9": 0, "10": 1}
    values, classes = number_labels([10, 9, None, 10], None)
    assert classes == ("9", "10")
    assert values is not None
    assert values.tolist() == [1, 0, -1, 1]


def test_what_has_no_label_is_of_no_class() -> None:
    values, classes = number_labels([1, None, 0], ("cat", "dog"))
    assert classes == ("cat", "dog")
    assert values is not None
    assert values.tolist() == [1, -1, 0]
    assert number_labels([None, float("nan")], None) == (None, ())


@pytest.mark.parametrize(("rows", "share", "held"), [(10, 0.2, 2), (12, 0.2, 2), (13, 0.2, 3), (50, 0.1, 5), (2, 0.2, 1), (1, 0.2, 0)])
def test_a_share_of_a_class_is_held_out_rounded(rows: int, share: float, held: int) -> None:
    assert hold_out(np.zeros(rows, int), 0, share).sum() == held
    assert hold_out(np.linspace(0, 1, rows), 0, share).sum() == held


def test_each_class_gives_its_own_share_by_seed_and_the_unknown_none() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([-1, 0, 1, 2], [30, 40, 20, 10]))
    held = hold_out(labels, 3)
    assert [int(held[labels == label].sum()) for label in (-1, 0, 1, 2)] == [0, 8, 4, 2]
    assert (hold_out(labels, 3) == held).all()
    assert (hold_out(labels, 4) != held).any()
    assert hold_out(np.repeat([0, 1], [40, 2]), 0, least=0).sum() == 8
    measured = hold_out(np.where(labels < 0, np.nan, labels.astype(float)), 0)
    assert not measured[labels < 0].any()
    assert measured.sum() == 14


def test_what_is_measured_on_is_the_test_part_and_val_only_without_one() -> None:
    three = {"train": [1], "val": [1], "test": [1]}
    assert held_out_part(three) == "test"
    assert held_out_part({**three, "test": []}) == "val"
    assert held_out_part({"train": [1], "val": []}) is None
    assert list(sort_parts(dict(reversed(three.items())))) == ["train", "val", "test"]


def test_rows_of_one_group_are_held_out_together() -> None:
    labels = np.repeat([0, 1], 60)
    groups = np.repeat(np.arange(40), 3)
    for seed in range(5):
        held = hold_out(labels, seed, groups=groups)
        assert (held.reshape(40, 3).sum(1) % 3 == 0).all()
        assert [held[labels == kind].sum() for kind in (0, 1)] == [12, 12]
    assert np.array_equal(hold_out(labels, 3, groups=np.arange(120)), hold_out(labels, 3))
