"""Decorrelation methods against the papers' equations in plain loops, and against lightly's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.plain import Plain
from untaught.methods.decorrelation.barlow_twins import BarlowTwins
from untaught.methods.decorrelation.lejepa import LeJEPA
from untaught.methods.decorrelation.vicregl import VICRegL
from untaught.methods.decorrelation.w_mse import WMSE
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.sigreg import epps_pulley
from untaught.ops.whitening import whiten

ROWS, WIDTH = 8, 3
FACTS = Facts(rows=ROWS)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def pair() -> list[Tensor]:
    return [torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)]


def encoder() -> Encoder:
    return Plain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6)), View(torch.zeros(2, 3, 4, 4)))


# -------------------------------------------------------------------------------------------------------- Barlow Twins


def test_barlow_twins_is_equations_1_and_2(pair: list[Tensor]) -> None:
    a, b = (z.double() - z.double().mean(0) for z in pair)
    diagonal = off = 0.0
    for i in range(WIDTH):
        for j in range(WIDTH):
            above = sum(float(a[n, i] * b[n, j]) for n in range(ROWS))
            below = math.sqrt(sum(float(a[n, i]) ** 2 for n in range(ROWS))) * math.sqrt(sum(float(b[n, j]) ** 2 for n in range(ROWS)))
            diagonal += (1 - above / below) ** 2 if i == j else 0.0
            off += (above / below) ** 2 if i != j else 0.0
    found = BarlowTwins(encoder(), FACTS).objective(pair, 0.0)
    assert found["invariance"].item() == pytest.approx(diagonal, rel=1e-4)
    assert found["redundancy"].item() == pytest.approx(0.005 * off, rel=1e-4)


def test_barlow_twins_is_lightlys(pair: list[Tensor]) -> None:
    loss = pytest.importorskip("lightly.loss")
    found = BarlowTwins(encoder(), FACTS).objective(pair, 0.0)
    torch.testing.assert_close(sum(found.values()), loss.BarlowTwinsLoss()(*pair))


# --------------------------------------------------------------------------------------------------------------- W-MSE


def test_whitened_vectors_have_the_covariance_1_and_the_triangle_of_cholesky() -> None:
    z = torch.randn(2, 50, 4) @ torch.randn(4, 4) + 3
    white = whiten(z)
    for group, raw in zip(white, z, strict=True):
        torch.testing.assert_close(group.T.cov(), torch.eye(4), atol=1e-3, rtol=0)
        torch.testing.assert_close(group.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
        first = raw[:, 0]  # of a lower triangle the first row has one entry
        torch.testing.assert_close(group[:, 0], (first - first.mean()) / first.std(), atol=1e-3, rtol=1e-3)


def test_w_mse_is_lightlys_for_one_slice(pair: list[Tensor]) -> None:
    loss = pytest.importorskip("lightly.loss.wmse_loss").WMSELoss(embedding_dim=WIDTH, w_size=ROWS, track_running_stats=False)
    found = WMSE(encoder(), FACTS, width=WIDTH, slice=ROWS).objective(pair, 0.0)["distance"]
    torch.testing.assert_close(found, loss(torch.cat(pair)), atol=1e-4, rtol=1e-4)


def test_w_mse_whitens_a_slice_at_a_time(pair: list[Tensor]) -> None:
    found, want = WMSE(encoder(), FACTS, width=WIDTH, slice=4).objective(pair, 0.0)["distance"], 0.0
    for start in range(2):
        a, b = (whiten(z[start::2]) for z in pair)  # two slices of four, every second sample
        for x, y in zip(a, b, strict=True):
            u, v = x / x.norm(), y / y.norm()
            want += float((u - v).square().sum()) / ROWS
    assert found.item() == pytest.approx(want, rel=1e-4)


def test_w_mse_refuses_batches_that_have_no_covariance() -> None:
    with pytest.raises(UserError, match=r"slice=8: must be greater than width=8"):
        WMSE(encoder(), FACTS, width=8, slice=8)
    with pytest.raises(UserError, match=r"whitens width=64 dimensions.*has 8; give a batch_size of 128 or more, or width=4"):
        WMSE(encoder(), FACTS).objective([torch.randn(8, 64), torch.randn(8, 64)], 0.0)


# -------------------------------------------------------------------------------------------------------------- LeJEPA


def test_epps_pulley_is_the_integral_of_the_difference_of_characteristic_functions() -> None:
    x, step = torch.randn(1, ROWS, 1) + 0.5, 3 / 16
    values = []
    for k in range(17):
        t = k * step
        said = sum(complex(math.cos(t * float(v)), math.sin(t * float(v))) for v in x.flatten()) / ROWS
        values.append(abs(said - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2))
    integral = 2 * step * (sum(values) - (values[0] + values[-1]) / 2)
    assert epps_pulley(x).item() == pytest.approx(ROWS * integral, rel=1e-4)


def test_normal_samples_have_the_least_distance() -> None:
    normal = torch.randn(1, 4000, 1)
    others = [normal + 1, 2 * normal, torch.rand(1, 4000, 1) * math.sqrt(12) - math.sqrt(3), normal * 0]
    assert all(epps_pulley(normal) < 0.2 * epps_pulley(other) for other in others)


def test_lejepa_is_lightlys() -> None:
    loss = pytest.importorskip("lightly.loss.lejepa_loss").LeJEPALoss(sigreg_num_vectors=5)
    method, z = LeJEPA(encoder(), FACTS, directions=5), torch.randn(8, ROWS, WIDTH)
    drawn = CounterRNG(0, 0, torch.zeros(1, dtype=torch.long), 0).normal(WIDTH, 5)[0]
    loss.sigreg._generate_unit_vectors = lambda *_, **__: drawn / drawn.norm(dim=0)
    torch.testing.assert_close(sum(method.objective(list(z), 0.0).values()), loss(local_proj=z[2:], global_proj=z[:2]))


def test_lejepa_looks_along_other_directions_each_step() -> None:
    method, z = LeJEPA(encoder(), FACTS), list(torch.randn(8, ROWS, WIDTH))
    before = method.objective(z, 0.0)
    method.after_step(0.0)
    after = method.objective(z, 0.0)
    assert before["sigreg"] != after["sigreg"]
    assert before["prediction"] == after["prediction"]


# ------------------------------------------------------------------------------------------------------------- VICRegL

SIDE = 16


def view(rows: int, affine: Tensor | None = None) -> View:
    affine = torch.eye(2, 3).expand(rows, 2, 3) if affine is None else affine
    return View(torch.randn(rows, 3, SIDE, SIDE), meta={"affine": affine})


def vicregl(**knobs: Any) -> VICRegL:
    small = {"width": 6, "local_width": WIDTH}
    return VICRegL(ConvSmall(size=SIDE, width=2), Facts(rows=ROWS, views={"global": view(2)}), **(small | knobs))


def test_vicregl_is_lightlys_but_for_halved_variances() -> None:
    loss = pytest.importorskip("lightly.loss").VICRegLLoss(num_matches=(3, 3))
    method = vicregl(variance=12.5, covariance=0.5)  # lightly, as the authors' code, takes means of both views, the paper sums
    method.matches = 3
    pooled = [torch.randn(ROWS, 6) for _ in range(2)]
    local, places = ([torch.randn(ROWS, 2, 2, size) for _ in range(2)] for size in (WIDTH, 2))
    want = loss([(pooled[i], local[i]) for i in range(2)], places)
    flat = [z.flatten(1, 2) for z in local]
    found = method.criterion(pooled, flat, [at.flatten(1, 2) for at in places])
    torch.testing.assert_close(sum(found.values()), want.squeeze(), rtol=1e-4, atol=1e-4)


def test_matches_are_the_closest_pairs_in_order() -> None:
    method = vicregl()
    method.matches = 2
    a, b = torch.arange(4.0).view(1, 4, 1), 10 + torch.arange(3.0).view(1, 3, 1)
    distance = torch.tensor([[[5.0, 9, 9], [9, 1, 9], [4, 4.5, 9], [9, 9, 0.5]]])
    found, matched = method.match(a, b, distance)
    assert found.flatten().tolist() == [3, 1]
    assert matched.flatten().tolist() == [12, 11]


def test_places_are_the_centres_of_the_map_in_the_stored_picture() -> None:
    method = vicregl()
    method.grid = [2, 4]
    flipped = torch.tensor([[[-0.5, 0.0, 0.25], [0.0, 0.25, -0.5]]])  # a mirrored crop
    found = method.places(view(1, flipped)).view(2, 4, 2)
    for row in range(2):
        for column in range(4):
            across, down = (2 * column + 1) / 4 - 1, (2 * row + 1) / 2 - 1
            torch.testing.assert_close(found[row, column], torch.tensor([-0.5 * across + 0.25, 0.25 * down - 0.5]))


def test_the_same_view_twice_is_matched_with_itself() -> None:
    method, shown = vicregl(), view(ROWS)
    terms = method([shown, shown], 0.0)
    assert terms["invariance"] == terms["local_invariance"] == 0
    turned = View(shown.x, meta={"affine": torch.tensor([[[-1.0, 0, 0], [0, -1, 0]]]).expand(ROWS, 2, 3)})
    assert method([shown, turned], 0.0)["local_invariance"] > 0  # at the same place of the image is another vector


def test_vicregl_keeps_the_papers_share_of_places() -> None:
    method = VICRegL(ConvSmall(size=56, width=2, depth=1), Facts(rows=9, views={"global": View(torch.rand(2, 3, 112, 112))}))
    assert method.grid == [7, 7]
    assert method.matches == 20
    with pytest.raises(UserError, match="matches=5: must be from 1 to 4"):
        vicregl(matches=5)
