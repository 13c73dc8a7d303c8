"""What a method carries from step to step: teachers, queues, and prototypes that stand still at first.

They are found by their structure, so that a new method is asked too. What is right is stated here, from the papers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_methods import CLASSES, GRID, total
from torch import Tensor, nn
from toys import ROWS, build

from untaught.blocks.queue import Queue
from untaught.core import Method, View
from untaught.methods import METHODS

KIND = dict(reversed(GRID))  # the modality that a method is asked on here: the first it meets
Momentum = Callable[[float], float]  # of progress, from 0 to 1


def constant(momentum: float) -> Momentum:
    return lambda progress: momentum


def cosine(start: float) -> Momentum:
    """BYOL, section 3.2: 1 - (1 - start) (cos(pi k / K) + 1) / 2."""
    return lambda progress: 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def linear(start: float, end: float) -> Momentum:
    return lambda progress: start + (end - start) * progress


TAUGHT: dict[str, tuple[str, Momentum]] = {  # which network is kept, and the momentum with which teachers follow
    "moco": ("student", constant(0.999)),  # He et al. 2020: the query's encoder is transferred; equation 2
    "mocov3": ("student", cosine(0.99)),  # Chen et al. 2021, section 4: a cosine
    "byol": ("student", cosine(0.996)),  # Grill et al. 2020: "at the end of training, we only keep the encoder f_theta", the online one
    "dino": ("teacher", cosine(0.996)),  # Caron et al. 2021: the teacher is evaluated
    "ibot": ("teacher", cosine(0.996)),  # Zhou et al. 2022: as DINO
    "dinov2": ("teacher", cosine(0.992)),
    "msn": ("teacher", linear(0.996, 1.0)),  # Assran et al. 2022: the target encoder
    "ijepa": ("teacher", linear(0.996, 1.0)),  # Assran et al. 2023, appendix A: the target encoder, linearly to 1
    "gram": ("student", constant(0.999)),  # Simeoni et al. 2025: the partner's network is kept
    "hubert": ("student", constant(0.0)),  # Hsu et al. 2021: units are of a copy, taken when a phase begins
    "ts2vec": ("teacher", constant(0.0)),  # the authors' code: the mean of the weights so far
    "data2vec": ("teacher", constant(0.9998)),  # the authors' command: --ema_decay .9998 --ema_start_at 0
}
ANCHORED = {
    "gram",
    "hubert",
    "ts2vec",
}  # snapshots that stand still between, a mean of all steps: tests/reference/test_{gram,speech,series}_by_equation.py
each_taught = pytest.mark.parametrize("name", [name for name in TAUGHT if name in CLASSES and name not in ANCHORED])


def built(name: str, **knobs: Any) -> tuple[Any, list[View]]:
    method, views, batch = build(CLASSES[name], KIND[name], **knobs)
    return method, views(batch, 0)


def followers(method: Method) -> dict[str, nn.Module]:
    """The largest parts of which no parameter has a gradient."""
    found: dict[str, nn.Module] = {}
    for name, part in method.named_modules():
        parameters = list(part.parameters())
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if parameters and not inside and not any(p.requires_grad for p in parameters):
            found[name] = part
    return found


def student_of(method: Method, teacher: nn.Module) -> nn.Module:
    """The part of a method that is new with the same parameters, trained."""
    own = list(teacher.parameters())
    for part in method.modules():
        theirs = list(part.parameters())
        if len(own) == len(theirs) and all(b.requires_grad and torch.equal(a, b) for a, b in zip(own, theirs, strict=True)):
            return part
    raise AssertionError(f"a {type(teacher).__name__} without gradients is no copy of a part that is trained")


@pytest.mark.parametrize("name", CLASSES)
def test_the_network_that_is_kept_is_the_one_that_is_stated(name: str) -> None:
    method, _ = built(name)
    teachers = followers(method).values()
    if name in METHODS:
        assert bool(teachers) == (name in TAUGHT), "say in TAUGHT which network is kept, and how its teacher follows"
        assert any(isinstance(part, Queue) for part in method.modules()) == (name in QUEUED), "say in QUEUED what its queue gets"
    for role, exported in method.exported().items():
        kept = getattr(method, role)
        if teachers and TAUGHT.get(name, ("student",))[0] == "teacher":
            (kept,) = (part for part in teachers if student_of(method, part) is getattr(method, role))
        for parts in (nn.Module.parameters, nn.Module.buffers):
            assert [id(value) for value in parts(exported)] == [id(value) for value in parts(kept)]


@each_taught
def test_every_parameter_of_every_teacher_follows_with_the_stated_momentum(name: str) -> None:
    method, made = built(name)
    pairs: list[tuple[Tensor, Tensor]] = []
    for teacher in followers(method).values():
        pairs += zip(teacher.parameters(), student_of(method, teacher).parameters(), strict=True)
    taught = [own for own, _ in pairs]
    assert {id(p) for p in taught} == {id(p) for p in method.parameters() if not p.requires_grad}
    total(method(made, 0.0)).backward()
    assert all(own.grad is None for own in taught)
    pending = list(method.pending)
    for progress in (0.0, 0.3, 0.8, 1.0):
        method.pending[:] = pending
        with torch.no_grad():
            for _, student in pairs:
                student.add_(torch.randn_like(student))
        was, statistics = [own.clone() for own in taught], [b.clone() for t in followers(method).values() for b in t.buffers()]
        method.after_step(progress)
        momentum = TAUGHT[name][1](progress)
        for (own, student), before in zip(pairs, was, strict=True):
            want = momentum * before.double() + (1 - momentum) * student.double()
            torch.testing.assert_close(own.double(), want, atol=1e-6, rtol=1e-6)
        after = [b for t in followers(method).values() for b in t.buffers()]
        assert all(torch.equal(a, b) for a, b in zip(statistics, after, strict=True)), "a teacher's BatchNorm has statistics of its own"


@each_taught
def test_no_gradient_reaches_a_teacher_even_if_it_could(name: str) -> None:
    method, made = built(name)
    statistics = {key: value.clone() for t, part in followers(method).items() for key, value in part.named_buffers(t)}
    teachers = followers(method)
    for teacher in teachers.values():
        teacher.requires_grad_(True)
    total(method(made, 0.5)).backward()
    assert [n for t, part in teachers.items() for n, p in part.named_parameters(t) if p.grad is not None and p.grad.any()] == []
    still = [key for t, part in teachers.items() for key, value in part.named_buffers(t) if torch.equal(value, statistics[key])]
    assert [key for key in still if key.endswith("running_mean")] == []


# ------------------------------------------------------------------------------------------------------------- queues


def projections(method: Any, views: list[View]) -> list[Tensor]:
    return [F.normalize(method.projector(method.encoder(view)), dim=1) for view in views]


QUEUED: dict[str, Callable[[Any, list[View]], list[Tensor]]] = {  # what each queue gets of a micro-batch
    "moco": lambda method, views: [F.normalize(method.key_head(method.key_encoder(views[1])), dim=1)],  # keys, of the second view
    "nnclr": lambda method, views: projections(method, views[:1]),  # of the first view
    "swav": lambda method, views: projections(method, views[:2]),  # of the large crops
}


@pytest.mark.parametrize("name", [name for name in QUEUED if name in CLASSES])
def test_queues_hold_the_newest_of_what_is_stated_in_its_order(name: str) -> None:
    size = ROWS + 6  # so that the third micro-batch of half the rows begins anew in the middle
    method, views, batch = build(CLASSES[name], KIND[name], queue=size)
    method.eval()
    halves = [{key: value[start : start + ROWS // 2] for key, value in batch.items()} for start in (0, ROWS // 2)]
    came: list[list[Tensor]] = []
    for step in ([(halves[0], 0), (halves[1], 0)], [(halves[0], 1)]):
        for half, epoch in step:
            made = views(half, epoch)
            with torch.no_grad():
                came.append(QUEUED[name](method, made))
                method(made, 0.5)
        method.after_step(0.5)
        method.pending.clear()
    queues = [part for part in method.modules() if isinstance(part, Queue)]
    for queue, *rows in zip(queues, *came, strict=True):
        oldest_first = queue.vectors.roll(-int(queue.oldest), 0)
        torch.testing.assert_close(oldest_first, torch.cat(rows)[-size:], atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- prototypes


@pytest.mark.parametrize("name", [name for name, cls in CLASSES.items() if "frozen" in inspect.signature(cls).parameters])
def test_prototypes_stand_still_at_first_and_nothing_else_does(name: str) -> None:
    method, made = built(name, frozen=0.2)
    prototypes = {n for n, p in method.named_parameters() if "prototypes" in n and p.requires_grad}
    for progress, still in ((0.19, prototypes), (0.2, set())):
        method.zero_grad()
        total(method(made, progress)).backward()
        method.before_step(progress)
        assert {n for n, p in method.named_parameters() if p.requires_grad and p.grad is None} == still
    assert prototypes
