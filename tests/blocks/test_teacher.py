"""A teacher is the moving average of its student, without gradients and without chance."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from timm.layers.drop import DropPath
from torch import nn

from untaught.blocks.teacher import Teacher, cosine_momentum


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), DropPath(0.5), nn.Linear(4, 2))


def moved(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_every_number_is_the_average_of_the_two(momentum: float) -> None:
    teacher = Teacher(network := student())
    before = copy.deepcopy(teacher.network)
    moved(network)
    teacher.follow(momentum)
    for own, was, students in zip(teacher.network.parameters(), before.parameters(), network.parameters(), strict=True):
        for a, b, c in zip(own.flatten().tolist(), was.flatten().tolist(), students.flatten().tolist(), strict=True):
            assert a == pytest.approx(momentum * b + (1 - momentum) * c, abs=1e-6)


def test_lag_is_the_distance_over_the_students_norm() -> None:
    teacher = Teacher(network := student())
    assert teacher.lag() == 0
    moved(network)
    far = near = 0.0
    for own, students in zip(teacher.network.parameters(), network.parameters(), strict=True):
        far += float((own - students).detach().square().sum())
        near += float(students.detach().square().sum())
    assert float(teacher.lag()) == pytest.approx(math.sqrt(far / near), rel=1e-5)


def test_it_has_no_gradients_no_chance_and_statistics_of_its_own() -> None:
    teacher, x = Teacher(network := student()), torch.randn(8, 3)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in network.parameters())
    first = teacher(x)
    assert not first.requires_grad
    assert torch.equal(first, teacher(x))
    assert not torch.equal(network(x), network(x))
    assert teacher.network.get_submodule("1").num_batches_tracked == 2
    teacher.follow(0.5)
    network(x)
    assert teacher.network.get_submodule("1").num_batches_tracked == 2


def test_the_student_is_no_part_of_it() -> None:
    teacher = Teacher(student())
    assert all(name.startswith("network.") for name in teacher.state_dict())
    both = nn.ModuleDict({"student": (network := student()), "teacher": Teacher(network)})
    twin = copy.deepcopy(both)
    moved(twin["student"])
    twin["teacher"].follow(0.0)  # type: ignore[operator]
    assert float(twin["teacher"].lag()) == 0  # type: ignore[operator]
    assert float(both["teacher"].lag()) == 0  # type: ignore[operator]


def test_momentum_rises_by_a_cosine_from_its_base_to_one() -> None:
    assert [cosine_momentum(0.9, progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    assert cosine_momentum(0.9, 0.25) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)
