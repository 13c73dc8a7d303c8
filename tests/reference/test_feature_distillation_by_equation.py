"""Feature distillation against AM-RADIO's loss in plain loops, and what its teachers are left with."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Features, FrozenEncoder, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.patch_series import PatchSeries
from untaught.encoders.timm import vit_mini
from untaught.methods import FeatureDistillation
from untaught.methods.distillation.feature_distillation import at_places, matched

ROWS = 4


def images(side: int = 16, name: str = "global") -> dict[str, View]:
    draws = torch.Generator().manual_seed(1)
    return {name: View(torch.randn(ROWS, 3, side, side, generator=draws), meta={"index": torch.tensor([5, 0, 3, 2])})}


def built(student: Encoder, teachers: list[Encoder], views: dict[str, View], **knobs: Any) -> FeatureDistillation:
    torch.manual_seed(0)
    given = tuple(FrozenEncoder(f"t{number}", teacher) for number, teacher in enumerate(teachers))
    return FeatureDistillation(student, Facts(8, views, teachers=given), **knobs)


def cosine(x: Tensor, y: Tensor) -> float:
    dot = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(float(a) ** 2 for a in x) * sum(float(b) ** 2 for b in y))


def smooth_l1(x: Tensor, y: Tensor) -> float:
    each = [abs(float(a) - float(b)) for a, b in zip(x, y, strict=True)]
    return sum(0.5 * d * d if d < 1 else d - 0.5 for d in each) / len(each)


@torch.no_grad()
def test_pooled_vectors_by_cosine_and_the_grid_by_cosine_and_smooth_l1_summed_over_teachers() -> None:
    views = images()
    student, teachers = ConvSmall(size=16, width=2), [ConvSmall(size=16, width=3), vit_mini(size=16, embed_dim=12, num_heads=2, depth=1)]
    method = built(student, teachers, views, pooled=2.0, dense=0.5).eval()
    (view,) = views.values()
    found, own = method([view], 0.0), student.features(view, ("pooled", "maps"))
    for number, teacher in enumerate(teachers):
        theirs = teacher.features(view, ("pooled", "maps"))
        said = method.heads[number](own.pooled)
        pooled = sum(1 - cosine(said[row], theirs.pooled[row]) for row in range(ROWS)) / ROWS  # type: ignore[index]
        assert float(found[f"pooled_{number}"]) == pytest.approx(2 * pooled, rel=1e-4)
        last, grid = own.maps[-1], theirs.maps[-1]  # type: ignore[index]
        grid = torch.nn.functional.interpolate(grid, last.shape[2:], mode="bilinear", antialias=True)
        total, places = 0.0, 0
        for row in range(ROWS):
            for i in range(last.shape[2]):
                for j in range(last.shape[3]):
                    x, y = method.grid_heads[number](last[row, :, i, j]), grid[row, :, i, j]
                    total, places = total + 0.9 * (1 - cosine(x, y)) + 0.1 * smooth_l1(x, y), places + 1
        assert float(found[f"dense_{number}"]) == pytest.approx(0.5 * total / places, rel=1e-4)


def test_padding_counts_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 4, generator=draws), torch.randn(2, 3, 4, generator=draws)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    wanted = sum(0.9 * (1 - cosine(x[at], y[at])) + 0.1 * smooth_l1(x[at], y[at]) for at in [(0, 0), (0, 1), (1, 0)]) / 3
    assert float(matched(x, y, 0.1, valid)) == pytest.approx(wanted, rel=1e-5)


def test_tokens_of_padded_series_are_matched_place_by_place() -> None:
    series = lambda seed: PatchSeries(channels=2, length=24, patch=2, width=16, depth=1, heads=2).eval()  # noqa: E731
    values, valid = torch.randn(2, 24, 2), torch.arange(24) < torch.tensor([[24], [10]])
    views = {"global": View(values, valid)}
    method = built(series(0), [series(1)], views).eval()
    assert method.grids == ["tokens"]
    terms = method(list(views.values()), 0.0)
    assert terms.keys() == {"pooled", "dense"}
    other = View(torch.where(valid[:, :, None], values, torch.tensor(9.0)), valid)
    assert float(method([other], 0.0)["dense"]) == pytest.approx(float(terms["dense"]), rel=1e-5)


def test_a_grid_of_another_size_is_resampled_to_the_students() -> None:
    ours, theirs = torch.zeros(1, 5, 2, 2), torch.arange(16.0).view(1, 1, 4, 4)
    found, _ = at_places(Features(maps=[theirs]), "maps", like=Features(maps=[ours]))
    assert found.shape == (1, 4, 1)
    smooth = torch.nn.functional.interpolate(theirs, (2, 2), mode="bilinear", antialias=True)
    assert torch.equal(found[0, :, 0], smooth.flatten())
    tokens, _ = at_places(Features(tokens=torch.zeros(1, 6, 3)), "tokens", like=Features(tokens=torch.zeros(1, 4, 3)))
    assert tokens.shape == (1, 4, 3)
    padded = Features(tokens=torch.zeros(1, 6, 3), valid=torch.ones(1, 6, dtype=torch.bool))
    with pytest.raises(UserError, match="6 tokens where the student has 4, which can't be matched with padding"):
        at_places(padded, "tokens", like=Features(tokens=torch.zeros(1, 4, 3)))


def test_teachers_stand_still_and_are_not_in_the_state() -> None:
    views, teacher = images(), ConvSmall(size=16, width=3)
    before = copy.deepcopy(teacher.state_dict())
    method = built(ConvSmall(size=16, width=2), [teacher], views).train()
    terms = method(list(views.values()), 0.0)
    torch.stack(list(terms.values())).sum().backward()
    assert not teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert not [key for key in method.state_dict() if key.startswith("teachers")]
    assert {p.data_ptr() for p in method.parameters()}.isdisjoint(p.data_ptr() for p in teacher.parameters())
    method.double()
    assert next(teacher.parameters()).dtype == torch.float64, "they move with the method"


def test_teachers_vectors_of_a_fixed_view_are_kept_and_are_the_same() -> None:
    views = images(name="whole")
    (view,) = views.values()
    calls: list[int] = []
    teacher = ConvSmall(size=16, width=3)
    teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    method = built(ConvSmall(size=16, width=2), [teacher], views, dense=0.0).eval()
    assert FeatureDistillation.wants_features(("whole",))
    assert not FeatureDistillation.wants_features(("global",))
    wanted = float(method([view], 0.0)["pooled"])
    assert view.meta is not None
    asked: list[tuple[str, int]] = []

    def extract(what: str, place: int) -> tuple[Tensor, Tensor]:
        asked.append((what, place))
        return view.meta["index"], getattr(method, what)(view)  # type: ignore[index]

    method.before_epoch(0, extract)
    method.before_epoch(1, extract)
    assert asked == [("teach", 0)]
    method.teachers.given = ()  # no teacher is read
    assert float(method([view], 0.0)["pooled"]) == pytest.approx(wanted, rel=1e-6)
    again = built(ConvSmall(size=16, width=2), [teacher], views, dense=0.0).eval()
    again.load_state_dict(method.state_dict())
    assert again.reads_kept
    assert float(again([view], 0.0)["pooled"]) == pytest.approx(wanted, rel=1e-6)


def test_the_grid_counts_unless_pooled_vectors_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = lambda name, **knobs: built(  # noqa: E731
        ConvSmall(size=16, width=2), [ConvSmall(size=16, width=3)], views := images(name=name), **knobs
    )(list(views.values()), 0.0).keys()
    assert terms("global") == {"pooled", "dense"}
    assert terms("whole") == {"pooled"}
    assert terms("whole", dense=1.0) == {"pooled", "dense"}
    assert terms("whole", pooled=0.0) == {"dense"}
    monkeypatch.setattr("untaught.methods.distillation.feature_distillation.MOST", 100)
    assert terms("whole") == {"pooled", "dense"}, "vectors of more than MOST bytes are not kept"


def test_what_can_not_be_learned_is_refused() -> None:
    views, plain = images(), nn.Linear(1, 1)
    with pytest.raises(UserError, match="needs a trained teacher"):
        FeatureDistillation(ConvSmall(size=16, width=2), Facts(8, views))
    with pytest.raises(UserError, match="leaves nothing to learn"):
        built(ConvSmall(size=16, width=2), [ConvSmall(size=16, width=2)], views, pooled=0.0, dense=0.0)

    class Pooled(Encoder):
        width = 3

        def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
            return Features(pooled=view.x.mean((2, 3)) * plain.weight)

    with pytest.raises(UserError, match="student and teacher t0 must both offer maps or tokens"):
        built(ConvSmall(size=16, width=2), [Pooled()], views, pooled=0.0)
    method = built(ConvSmall(size=16, width=2), [Pooled()], views)
    assert method(list(views.values()), 0.0).keys() == {"pooled"}
    assert replace(next(iter(views.values())), meta=None).meta is None
