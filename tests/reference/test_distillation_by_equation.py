"""BYOL and DINO against the papers' equations in plain loops, and against lightly's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.plain import Plain
from untaught.methods.distillation.byol import BYOL
from untaught.methods.distillation.dino import DINO
from untaught.ops.cosine import cosine_distance

ROWS, WIDTH = 5, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def encoder() -> Encoder:
    return Plain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6)), View(torch.zeros(2, 3, 4, 4)))


def views(*sides: int) -> list[View]:
    return [View(torch.randn(ROWS, 3, side, side)) for side in sides]


# ---------------------------------------------------------------------------------------------------------------- BYOL


def test_byols_distance_is_equation_2() -> None:
    q, z = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
    want = 0.0
    for i in range(ROWS):
        a, b = q[i] / q[i].norm(), z[i] / z[i].norm()
        want += sum(float(a[j] - b[j]) ** 2 for j in range(WIDTH)) / ROWS
    assert cosine_distance(q, z).item() == pytest.approx(want, rel=1e-5)


def test_byols_distance_is_lightlys_but_for_the_constants() -> None:
    loss = pytest.importorskip("lightly.loss")
    q, z = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
    torch.testing.assert_close(cosine_distance(q, z), 2 + 2 * loss.NegativeCosineSimilarity()(q, z))


def test_byol_predicts_the_teachers_projection_of_the_other_view() -> None:
    method, (a, b) = BYOL(encoder(), Facts(rows=ROWS), width=4), views(4, 4)
    with torch.no_grad():
        for parameter in method.teacher_encoder.parameters():
            parameter.mul_(1.5)
    said = [method.predictor(method.projector(method.encoder(v))) for v in (a, b)]
    taught = [method.teacher_projector(method.teacher_encoder(v)) for v in (a, b)]
    want = cosine_distance(said[0], taught[1]) + cosine_distance(said[1], taught[0])
    torch.testing.assert_close(method([a, b], 0.0)["distance"], want)


def test_byols_heads_are_the_papers() -> None:
    method = BYOL(encoder(), Facts(rows=ROWS))
    for head, inside in ((method.projector, 6), (method.predictor, 256)):
        assert [type(part).__name__ for part in head] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
        assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [(inside, 12), (12, 256)]
    assert method.exported()["encoder"] is method.encoder


def test_byols_teacher_follows_with_a_momentum_that_rises_to_one() -> None:
    method = BYOL(encoder(), Facts(rows=ROWS), momentum=0.5)
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.add_(1.0)
    for progress, behind in ((0.0, 0.5), (0.5, 0.375), (1.0, 0.375)):  # 1 - tau: 0.5, then 0.25, then 0
        method.after_step(progress)
        for own, students in zip(method.teacher_encoder.parameters(), method.encoder.parameters(), strict=True):
            torch.testing.assert_close(students - own, torch.full_like(own, behind))


# ---------------------------------------------------------------------------------------------------------------- DINO


def dino(**knobs: object) -> DINO:
    return DINO(ConvSmall(channels=3, size=16, width=4), Facts(rows=ROWS), **{"prototypes": WIDTH, "hidden": 8, "bottleneck": 4, **knobs})  # type: ignore[arg-type]


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


@pytest.fixture
def outputs() -> tuple[Tensor, Tensor]:
    """What a student says of 8 views, and a teacher of 2."""
    return 0.2 * torch.randn(8, ROWS, WIDTH), 0.2 * torch.randn(2, ROWS, WIDTH)


def test_dino_is_equation_3_of_all_pairs_of_different_views(outputs: tuple[Tensor, Tensor]) -> None:
    said, taught = outputs
    method = dino(temperature=0.1, teacher_temperature=(0.04, 0.04))
    method.centre.copy_(torch.linspace(-0.1, 0.1, WIDTH))
    total, pairs = 0.0, 0
    for t in range(2):
        for s in range(8):
            if s == t:
                continue
            pairs += 1
            for i in range(ROWS):
                p = softmax([float(taught[t, i, k] - method.centre[k]) / 0.04 for k in range(WIDTH)])
                q = softmax([float(said[s, i, k]) / 0.1 for k in range(WIDTH)])
                total -= sum(p[k] * math.log(q[k]) for k in range(WIDTH)) / ROWS
    assert pairs == 14
    assert method.cross_entropy(said, taught, 0.0).item() == pytest.approx(total / pairs, rel=1e-4)


def test_dino_and_its_centre_are_lightlys(outputs: tuple[Tensor, Tensor]) -> None:
    loss = pytest.importorskip("lightly.loss").DINOLoss(output_dim=WIDTH, teacher_temp=0.04)
    said, taught = outputs
    method = dino(teacher_temperature=(0.04, 0.04))
    for _ in range(3):
        torch.testing.assert_close(method.cross_entropy(said, taught, 0.0), loss(list(taught), list(said)))
        method.pending = [half.mean((0, 1)) for half in (taught, taught)]  # of two micro-batches
        method.after_step(0.0)
        torch.testing.assert_close(method.centre, loss.center.flatten())


def test_dino_sharpens_less_as_the_training_warms_up(outputs: tuple[Tensor, Tensor]) -> None:
    said, taught = outputs
    method = dino(teacher_temperature=(0.04, 0.08), teacher_warmup=0.4)
    for progress, temperature in ((0.0, 0.04), (0.2, 0.06), (0.4, 0.08), (1.0, 0.08)):
        fixed = dino(teacher_temperature=(temperature, temperature))
        torch.testing.assert_close(method.cross_entropy(said, taught, progress), fixed.cross_entropy(said, taught, 0.0))


def test_the_teacher_sees_the_large_views_alone_and_the_student_all() -> None:
    method, made = dino(), views(16, 16, *[8] * 6)
    with torch.no_grad():
        for parameter in method.teacher_encoder.parameters():
            parameter.mul_(1.5)
    seen: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    method.encoder.register_forward_hook(lambda _, x, __: seen["student"].append(tuple(x[0].x.shape)))
    method.teacher_encoder.register_forward_hook(lambda _, x, __: seen["teacher"].append(tuple(x[0].x.shape)))
    assert method(made, 0.0)["cross_entropy"].isfinite()
    assert seen == {"student": [(2 * ROWS, 3, 16, 16), (6 * ROWS, 3, 8, 8)], "teacher": [(2 * ROWS, 3, 16, 16)]}
    assert method.exported()["encoder"] is method.teacher_encoder.network
    taught = method.teacher_head(method.teacher_encoder(View.cat(made[:2])))
    torch.testing.assert_close(method.pending[0], taught.mean(0))  # equation 4: the centre is of the teacher's outputs


def test_prototypes_stand_still_at_first_and_have_no_length() -> None:
    method = dino(frozen=0.1)
    before = method.head(x := torch.randn(2, method.encoder.width))
    with torch.no_grad():
        method.head.prototypes.weight.mul_(3)
    torch.testing.assert_close(method.head(x), before)
    for progress, moves in ((0.0, False), (0.09, False), (0.1, True)):
        method(views(16, 16, *[8] * 6), progress)["cross_entropy"].backward()
        method.before_step(progress)
        assert (method.head.prototypes.weight.grad is not None) == moves
        assert all(p.grad is not None for p in method.head.mlp.parameters())


@pytest.mark.parametrize(("rows", "count"), [(100, 1024), (50_000, 2500), (10_000_000, 65_536)])
def test_there_is_a_prototype_for_20_samples(rows: int, count: int) -> None:
    assert len(DINO(encoder(), Facts(rows=rows), hidden=2, bottleneck=2).centre) == count
