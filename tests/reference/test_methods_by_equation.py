"""Objectives against the papers' equations in plain loops, and against published implementations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, View
from untaught.encoders.plain import Plain
from untaught.encoders.timm import vit_mini
from untaught.methods.contrastive.simclr import SimCLR
from untaught.methods.decorrelation.vicreg import VICReg
from untaught.methods.reconstruction.mae import MAE
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.masking import random_mask, visible

ROWS, WIDTH = 5, 4


def encoder() -> Encoder:
    return Plain(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6)), View(torch.zeros(2, 3, 4, 4)))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def pair() -> list[Tensor]:
    return [torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)]


# -------------------------------------------------------------------------------------------------------------- SimCLR


def test_simclr_is_equation_1(pair: list[Tensor]) -> None:
    z = [row.double() for two in zip(*pair, strict=True) for row in two]  # the paper's order: 2k - 1 and 2k are positives

    def s(i: int, j: int) -> float:
        return float(z[i] @ z[j] / (z[i].norm() * z[j].norm()))

    def l(i: int, j: int, temperature: float) -> float:  # noqa: E743
        return -math.log(math.exp(s(i, j) / temperature) / sum(math.exp(s(i, k) / temperature) for k in range(2 * ROWS) if k != i))

    method = SimCLR(encoder(), Facts(rows=ROWS), temperature=0.1)
    want = sum(l(2 * k, 2 * k + 1, 0.1) + l(2 * k + 1, 2 * k, 0.1) for k in range(ROWS)) / (2 * ROWS)
    assert abs(method.objective(pair, 0.0)["nt_xent"].item() - want) < 1e-5


def test_simclr_is_lightlys_ntxent(pair: list[Tensor]) -> None:
    loss = pytest.importorskip("lightly.loss")
    found = SimCLR(encoder(), Facts(rows=ROWS), temperature=0.2).objective(pair, 0.0)["nt_xent"]
    torch.testing.assert_close(found, loss.NTXentLoss(temperature=0.2)(*pair))


def test_simclrs_projector_has_one_hidden_layer() -> None:
    linear = [m for m in SimCLR(encoder(), Facts(rows=ROWS)).projector if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6, 6), (6, 128)]


# -------------------------------------------------------------------------------------------------------------- VICReg


def test_vicreg_is_equation_6(pair: list[Tensor]) -> None:
    z, other = (x.double() for x in pair)

    def variance(x: Tensor) -> float:  # equations 1 and 2, gamma 1, epsilon 0.0001
        total = 0.0
        for j in range(WIDTH):
            column = [float(v) for v in x[:, j]]
            mean = sum(column) / ROWS
            total += max(0.0, 1 - math.sqrt(sum((v - mean) ** 2 for v in column) / (ROWS - 1) + 1e-4))
        return total / WIDTH

    def covariance(x: Tensor) -> float:  # equations 3 and 4
        mean = x.mean(0)
        matrix = torch.stack([torch.outer(row - mean, row - mean) for row in x]).sum(0) / (ROWS - 1)
        return sum(float(matrix[i, j]) ** 2 for i in range(WIDTH) for j in range(WIDTH) if i != j) / WIDTH

    invariance = sum(float((a - b).square().mean()) for a, b in zip(z, other, strict=True)) / ROWS  # over dimensions: Algorithm 1
    found = VICReg(encoder(), Facts(rows=ROWS)).objective(pair, 0.0)
    want = {
        "invariance": 25 * invariance,
        "variance": 25 * (variance(z) + variance(other)),
        "covariance": covariance(z) + covariance(other),
    }
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert abs(found[name].item() - value) < 1e-4, name


def test_vicreg_is_lightlys_but_for_the_halved_variance(pair: list[Tensor]) -> None:
    loss = pytest.importorskip("lightly.loss.vicreg_loss")
    found = VICReg(encoder(), Facts(rows=ROWS)).objective(pair, 0.0)
    a, b = pair
    torch.testing.assert_close(found["invariance"], 25 * loss.invariance_loss(a, b))
    # lightly, as the authors' code, halves what the paper sums
    torch.testing.assert_close(found["variance"], 2 * 25 * 0.5 * (loss.variance_loss(a) + loss.variance_loss(b)))
    centred = [x - x.mean(0) for x in pair]
    torch.testing.assert_close(found["covariance"], sum(loss.covariance_loss(x) for x in centred))
    whole = loss.VICRegLoss()(a, b)
    torch.testing.assert_close(found["invariance"] + found["variance"] / 2 + found["covariance"], whole)


# ----------------------------------------------------------------------------------------------------------------- MAE

PATCH, SIDE = 4, 16
COUNT = (SIDE // PATCH) ** 2


def masked_view(x: Tensor) -> View:
    tokens = nn.functional.unfold(x, PATCH, stride=PATCH).transpose(1, 2)
    hidden = random_mask(CounterRNG(0, 0, torch.arange(len(x)), 0).order(COUNT), 0.75)
    return View(x, mask=hidden, target=tokens)


@pytest.fixture
def view() -> View:
    return masked_view(torch.rand(3, 3, SIDE, SIDE))


@pytest.fixture
def mae(view: View) -> MAE:
    return MAE(vit_mini(size=SIDE, patch_size=PATCH, embed_dim=32, depth=3, num_heads=2), Facts(rows=9, views={"masked": view})).eval()


@pytest.mark.parametrize("normalise", [True, False])
def test_mae_is_the_error_of_hidden_patches_each_normalised(mae: MAE, view: View, normalise: bool) -> None:
    mae.normalise = normalise
    assert view.mask is not None
    said, total, count = mae.restore(view), 0.0, 0
    for b in range(3):
        for n in range(COUNT):
            if not view.mask[b, n]:
                continue
            row, column = divmod(n, SIDE // PATCH)
            patch = view.x[b, :, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)].flatten()
            if normalise:
                patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            total, count = total + float((said[b, n] - patch).square().mean().detach()), count + 1
    assert count == 3 * 12
    assert abs(mae([view], 0.0)["reconstruction"].item() - total / count) < 1e-4


@pytest.mark.parametrize(("given", "few", "normalised"), [(None, True, False), (None, False, True), (True, True, True)])
def test_tokens_of_few_values_are_not_normalised_unless_asked(view: View, given: bool | None, few: bool, normalised: bool) -> None:
    """Normalised, a single value is 0 whatever it was: such a target teaches nothing."""
    view.meta = {"few": torch.full((3,), few)}
    vit = vit_mini(size=SIDE, patch_size=PATCH, embed_dim=32, depth=3, num_heads=2)
    mae = MAE(vit, Facts(rows=9, views={"masked": view}), normalise=given).eval()
    assert view.target is not None
    brighter = replace(view, target=view.target + 1.0)
    assert torch.isclose(mae([view], 0.0)["reconstruction"], mae([brighter], 0.0)["reconstruction"], rtol=1e-3) == normalised


def pixels_where(hidden: Tensor) -> Tensor:
    """hidden (B,N) -> (B,1,H,W) bool."""
    side = SIDE // PATCH
    return hidden.view(-1, 1, side, side).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


def test_hidden_pixels_never_reach_the_encoder_nor_the_answer(mae: MAE, view: View) -> None:
    assert view.mask is not None
    changed = replace(view, x=torch.where(pixels_where(view.mask), torch.rand_like(view.x), view.x))
    assert torch.equal(mae.restore(view), mae.restore(changed))
    seen = replace(view, x=torch.where(pixels_where(view.mask), view.x, torch.rand_like(view.x)))
    assert not torch.allclose(mae.restore(view), mae.restore(seen))


def test_visible_patches_do_not_enter_the_loss(mae: MAE, view: View) -> None:
    assert view.mask is not None
    assert view.target is not None
    other = replace(view, target=torch.where(view.mask.unsqueeze(-1), view.target, torch.rand_like(view.target)))
    assert mae([view], 0.0)["reconstruction"] == mae([other], 0.0)["reconstruction"]


def test_the_decoder_finds_each_token_at_its_own_place(mae: MAE, view: View, monkeypatch: pytest.MonkeyPatch) -> None:
    assert view.mask is not None
    came: list[Tensor] = []
    monkeypatch.setattr(mae.decoder, "forward", lambda x, valid=None: came.append(x) or x)
    mae.restore(view)
    (full,) = came
    at = visible(view.mask, mae.visible)
    tokens, _ = mae.encoder.embed(view)
    kept = mae.encoder.context(torch.stack([t[i] for t, i in zip(tokens, at, strict=True)]), at=at).tokens
    assert kept is not None
    for b in range(3):
        for n in range(COUNT):
            place = (at[b] == n).nonzero()
            content = mae.into(kept[b, place[0, 0]]) if len(place) else mae.mask
            torch.testing.assert_close(full[b, n], content + mae.positions[n], atol=1e-5, rtol=1e-4)


def test_the_decoder_tells_mask_tokens_apart(mae: MAE, view: View) -> None:
    assert view.mask is not None
    said = mae.restore(view)[0][view.mask[0]]
    assert (torch.cdist(said, said) + torch.eye(len(said)) > 1e-4).all()


def test_maes_positions_are_sines_of_row_and_column(mae: MAE) -> None:
    width, side = mae.positions.shape[1], SIDE // PATCH
    share = width // 4
    for n in range(COUNT):
        for axis, place in enumerate(divmod(n, side)):
            for k in range(share):
                angle = place / 10000 ** (k / share)
                start = 2 * axis * share + k
                assert abs(float(mae.positions[n, start]) - math.sin(angle)) < 1e-5
                assert abs(float(mae.positions[n, start + share]) - math.cos(angle)) < 1e-5
