"""The relation methods against the papers' equations in plain loops, and what their encoders are left with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Features, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.encoders.timm import timm_encoder, vit_mini
from untaught.methods import Jigsaw, RelativePatch, Rotation
from untaught.ops.classification import classified

ROWS, SIDE = 4, 6


class Small(Encoder):
    """A convolution with BatchNorm: x (B,3,H,W) -> (B,5)."""

    width = 5

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        return Features(pooled=self.net(view.x).mean((2, 3)))


def parts(count: int, classes: int, side: int = SIDE, answers: int = 0) -> View:
    """A view of `count` random parts, and random answers: one per sample, or so many."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, count, 3, side, side, generator=draws)
    answer = torch.randint(classes, (ROWS, answers) if answers else (ROWS,), generator=draws)
    target = nn.functional.one_hot(answer, classes).float()
    return View(x, target=target, meta={"parts": torch.arange(count).expand(ROWS, -1)})


def whole(side: int = 16) -> View:
    return View(3 + 2 * torch.randn(ROWS, 3, side, side, generator=torch.Generator().manual_seed(1)))


def built(cls: Any, views: list[View], encoder: Encoder | None = None, **knobs: Any) -> Any:
    torch.manual_seed(0)
    return cls(encoder or Small(), Facts(ROWS, dict(zip(cls.views, views, strict=True))), **knobs)


VIEWS = {Rotation: [parts(4, 4, answers=4)], RelativePatch: [parts(9, 8, answers=8), whole()], Jigsaw: [parts(9, 30), whole()]}
every = pytest.mark.parametrize("cls", VIEWS, ids=lambda cls: cls.__name__)


def log_softmax(logits: list[float], at: int) -> float:
    return logits[at] - math.log(sum(math.exp(logit) for logit in logits))


def vectors(method: Any, view: View) -> list[list[Tensor]]:
    """Each part alone through the encoder."""
    return [[method.encoder(View(part.unsqueeze(0)))[0] for part in sample] for sample in view.x]


def with_own_statistics(method: Any) -> None:
    """Copies the statistics of parts into the encoder, so that calling it sees what the method sees."""
    own, norm = method.parts.norms[0], method.encoder.net[1]
    norm.running_mean.copy_(own.running_mean)
    norm.running_var.copy_(own.running_var)


def trained_a_little(cls: Any, **knobs: Any) -> Any:
    """With statistics that are not those of the beginning, in eval mode."""
    method = built(cls, VIEWS[cls], **knobs)
    for _ in range(3):
        method(VIEWS[cls], 0.0)
    return method.eval()


def test_rotation_is_the_mean_over_images_and_their_four_rotations() -> None:
    """Equations 2 and 3: -1/K sum_y log F^y(g(X|y))."""
    method, (view,) = trained_a_little(Rotation), VIEWS[Rotation]
    terms = method([view], 0.0)
    loss, right = 0.0, 0
    for sample, answers in zip(vectors(method, view), view.target.argmax(2).tolist(), strict=True):  # type: ignore[union-attr]
        for vector, answer in zip(sample, answers, strict=True):
            logits = method.classifier(vector).tolist()
            loss -= log_softmax(logits, answer) / (4 * ROWS)
            right += logits.index(max(logits)) == answer
    assert terms["cross_entropy"].item() == pytest.approx(loss, rel=1e-4)
    assert terms["accuracy"].item() == pytest.approx(right / (4 * ROWS))


@pytest.mark.parametrize("cls", [RelativePatch, Jigsaw])
def test_parts_are_encoded_apart_and_compared_in_the_head_in_their_order(cls: Any) -> None:
    method, views = trained_a_little(cls), VIEWS[cls]
    terms = method(views, 0.0)
    with_own_statistics(method)
    loss, right = 0.0, 0
    asked = 1 if cls is Jigsaw else 8
    for sample, answers in zip(vectors(method, views[0]), views[0].target.argmax(-1).view(ROWS, asked).tolist(), strict=True):  # type: ignore[union-attr]
        compared = [[method.each(vector) for vector in sample]] if cls is Jigsaw else [[sample[0], other] for other in sample[1:]]
        for each, answer in zip(compared, answers, strict=True):
            logits = method.head(torch.cat(each).unsqueeze(0))[0].tolist()
            loss -= log_softmax(logits, answer) / ROWS / asked
            right += logits.index(max(logits)) == answer
    assert terms["cross_entropy"].item() == pytest.approx(loss, rel=1e-4)
    assert terms["accuracy"].item() == pytest.approx(right / ROWS / asked)


def test_heads_have_the_papers_layers() -> None:
    pair, jigsaw = built(RelativePatch, VIEWS[RelativePatch]), built(Jigsaw, VIEWS[Jigsaw], tile_width=7, hidden=11)
    shapes = lambda head: [(p.in_features, p.out_features) for p in head.modules() if isinstance(p, nn.Linear)]  # noqa: E731
    assert shapes(pair.head) == [(10, 5), (5, 5), (5, 8)]
    assert shapes(jigsaw.each) == [(5, 7)]
    assert shapes(jigsaw.head) == [(63, 11), (11, 30)]


@every
def test_the_accuracy_is_only_logged_and_chance_is_that_of_guessing(cls: Any) -> None:
    method, views = built(cls, VIEWS[cls]), VIEWS[cls]
    terms = method(views, 0.0)
    assert not terms["accuracy"].requires_grad
    assert terms["cross_entropy"].requires_grad
    assert views[0].target is not None
    assert method.chance == pytest.approx(1 / views[0].target.shape[-1])


def test_accuracy_counts_the_largest_logit() -> None:
    logits = torch.tensor([[[1.0, 2.0, 0.0], [5.0, 0.0, 1.0]]], dtype=torch.bfloat16)
    found = classified(logits, torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]]))
    want = -(log_softmax([1.0, 2.0, 0.0], 1) + log_softmax([5.0, 0.0, 1.0], 2)) / 2
    assert found["accuracy"].item() == 0.5
    assert found["cross_entropy"].item() == pytest.approx(want, rel=1e-5)
    assert found["cross_entropy"].dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------- BatchNorm


@pytest.mark.parametrize("cls", [RelativePatch, Jigsaw])
def test_the_encoder_keeps_the_statistics_of_images_and_the_method_those_of_parts(cls: Any) -> None:
    method, views = built(cls, VIEWS[cls]), VIEWS[cls]
    for _ in range(200):
        method(views, 0.0)
    conv, norm = method.encoder.net[0], method.encoder.net[1]
    with torch.no_grad():
        of_images, of_parts = (conv(x) for x in (views[1].x[:2], views[0].apart().x))  # a third of the samples, rounded up
    for running, seen in ((norm, of_images), (method.parts.norms[0], of_parts)):
        torch.testing.assert_close(running.running_mean, seen.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(running.running_var, seen.var((0, 2, 3)), atol=1e-4, rtol=1e-2)
    assert (norm.running_mean - method.parts.norms[0].running_mean).abs().max() > 0.1


@pytest.mark.parametrize("cls", [RelativePatch, Jigsaw])
def test_the_image_has_no_gradient_and_does_not_change_the_loss(cls: Any) -> None:
    views = VIEWS[cls]
    method = built(cls, views)
    a = method(views, 0.0)["cross_entropy"]
    b = method([views[0], View(views[1].x * 9)], 0.0)["cross_entropy"]
    assert torch.equal(a, b)
    assert torch.equal(method.eval()(views, 0.0)["cross_entropy"], method([views[0], View(views[1].x * 9)], 0.0)["cross_entropy"])


def test_a_pretrained_encoders_statistics_are_those_of_parts_at_first() -> None:
    encoder = Small()
    encoder.net[1].running_mean.fill_(0.3)  # type: ignore[union-attr, operator]
    method = built(Jigsaw, VIEWS[Jigsaw], encoder)
    assert torch.equal(method.parts.norms[0].running_mean, torch.full((5,), 0.3))


# ------------------------------------------------------------------------------------------------------------- solutions


@every
def test_answers_are_probabilities_in_the_form_of_the_target(cls: Any) -> None:
    method, views = trained_a_little(cls), VIEWS[cls]
    answer, target = method.solve(views), views[0].target
    assert target is not None
    assert answer.shape == target.shape
    torch.testing.assert_close(answer.sum(-1), torch.ones(answer.shape[:-1]))
    logits = method.score(*views) if cls is Rotation else method.score(views)
    assert torch.equal(answer.argmax(-1), logits.argmax(-1))


# ------------------------------------------------------------------------------------------------------- bad input, sizes


@pytest.mark.parametrize(
    ("encoder", "stride"),
    [(ConvSmall(size=32), 8), (vit_mini(size=64), 8), (timm_encoder("resnet18", size=32), 8), (timm_encoder("resnet18", size=96), 32)],
    ids=["conv_small", "vit_mini", "small stem", "resnet18"],
)
@pytest.mark.parametrize("cls", [RelativePatch, Jigsaw])
def test_tiles_smaller_than_the_encoders_stride_are_refused(cls: Any, encoder: Encoder, stride: int) -> None:
    sizes: Any = {"classes": 8, "answers": 8} if cls is RelativePatch else {"classes": 30}
    name = cls.views[0]
    with pytest.raises(UserError, match=rf"tiles of {stride - 1} x {stride - 1} pixels .* stride of {stride}; choose {name}.tile={stride}"):
        built(cls, [parts(9, side=stride - 1, **sizes), whole()], encoder)
    built(cls, [parts(9, side=stride, **sizes), whole()], encoder)


@pytest.mark.parametrize("size", [16, 28, 32, 48, 64, 96, 128])
def test_conv_small_says_its_stride(size: int) -> None:
    encoder = ConvSmall(size=size)
    maps = encoder.eval().features(View(torch.zeros(1, 3, 4 * encoder.stride, 4 * encoder.stride)), want=("maps",)).maps
    assert maps is not None
    assert maps[-1].shape[-1] == 4


@every
def test_views_without_parts_are_refused(cls: Any) -> None:
    with pytest.raises(UserError, match=f"reads several parts of each sample.*such as {cls.views[0]}"):
        built(cls, [whole()] * len(cls.views))
