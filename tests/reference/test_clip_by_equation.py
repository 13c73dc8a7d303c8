"""CLIP against figure 3 of the paper in plain loops, and against the loss of transformers' CLIPModel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, Facts, View
from untaught.methods.contrastive.clip import CLIP
from untaught.ops import info_nce as chunked
from untaught.ops.info_nce import paired_info_nce
from untaught.training.step import TrainingStep

ROWS, WIDTH, SIDE = 7, 5, 4
WORLD = 2
MISSING = [1, 4]  # pairs that lack a half


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Flat(Encoder):
    """A linear map of the pixels, with dropout. x (B,3,S,S) -> (B,6)."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.map, self.dropout = nn.Linear(3 * SIDE * SIDE, self.width), nn.Dropout(0.1)

    def forward(self, view: View) -> Tensor:
        return self.dropout(self.map(view.x.flatten(1)))


class Bag(Encoder):
    """Mean of embedded tokens, with dropout. x (B,L) int -> (B,6)."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.table, self.dropout = nn.Embedding(11, self.width), nn.Dropout(0.1)

    def forward(self, view: View) -> Tensor:
        kept = view.valid.unsqueeze(2)
        return (self.dropout(self.table(view.x)) * kept).sum(1) / kept.sum(1).clamp(min=1)


def built(rows: int = ROWS, **knobs: Any) -> tuple[CLIP, list[View]]:
    torch.manual_seed(0)
    method = CLIP(Flat(), Bag(), Facts(rows=rows), width=WIDTH, **knobs)
    valid = torch.arange(3).expand(rows, 3) < torch.randint(1, 4, (rows, 1))
    return method, [View(torch.randn(rows, 3, SIDE, SIDE)), View(torch.randint(11, (rows, 3)), valid)]


def without(views: list[View], missing: list[int]) -> list[View]:
    """Every other one of the missing pairs lacks its image, the others their text."""
    for place, view in enumerate(views):
        there = torch.ones(len(view), dtype=torch.bool)
        there[missing[place::2]] = False
        view.meta = {"present": there}
    return views


def figure_3(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """image, text (n,D), projected: logits = scale * cosines; cross-entropy of rows and of columns with the labels 0 ... n - 1."""
    a, b = ([row / row.norm() for row in z] for z in (image, text))
    n = len(a)
    logits = [[scale * (a[i] @ b[j]) for j in range(n)] for i in range(n)]
    total = image.new_zeros(())
    for i in range(n):
        total = total - torch.log(logits[i][i].exp() / sum(logits[i][j].exp() for j in range(n)))  # the image among all texts
        total = total - torch.log(logits[i][i].exp() / sum(logits[j][i].exp() for j in range(n)))  # the text among all images
    return total / (2 * n)


@pytest.mark.parametrize("chunk", [1, 2 * ROWS, 1 << 20], ids=["a row a chunk", "two rows a chunk", "one chunk"])
@pytest.mark.parametrize("missing", [[], MISSING], ids=["complete", "missing fields"])
def test_loss_and_gradients_are_those_of_figure_3(chunk: int, missing: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK", chunk)
    given = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH), torch.tensor(0.13)
    for place, z in enumerate(given[:2]):
        z[missing[place::2]] = 0
    ours = [x.clone().requires_grad_() for x in given]
    theirs = [x.double().requires_grad_() for x in given]
    complete = [row for row in range(ROWS) if row not in missing]
    loss = paired_info_nce(ours[0], ours[1], ours[2])
    want = figure_3(theirs[0][complete], theirs[1][complete], 1 / theirs[2])
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)
    (3 * loss).backward()
    (3 * want).backward()
    for x, y in zip(ours, theirs, strict=True):
        assert x.grad is not None
        assert y.grad is not None
        torch.testing.assert_close(x.grad, y.grad.float(), atol=2e-5, rtol=1e-4)


def test_the_loss_is_that_of_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.clip.modeling_clip")
    a, b = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
    logits = 14.3 * nn.functional.normalize(b) @ nn.functional.normalize(a).T  # of each text to all images
    assert paired_info_nce(a, b, 1 / 14.3).item() == pytest.approx(modeling.image_text_contrastive_loss(logits).item(), rel=1e-5)


def test_without_a_complete_pair_loss_and_gradients_are_zero() -> None:
    image, text = torch.randn(3, WIDTH, requires_grad=True), torch.zeros(3, WIDTH, requires_grad=True)
    loss = paired_info_nce(image, text, 0.1)
    loss.backward()
    assert loss.item() == 0
    assert image.grad is not None
    assert not image.grad.any()


def test_the_method_projects_linearly_and_begins_at_the_paper_s_scale() -> None:
    method, views = built()
    method.eval()
    terms = method(views, 0.0)
    pair = [method.image(views[0]) @ method.image_projection.weight.T, method.text(views[1]) @ method.text_projection.weight.T]
    assert terms["scale"].item() == pytest.approx(1 / 0.07)
    assert terms["info_nce"].item() == pytest.approx(figure_3(pair[0], pair[1], torch.tensor(1 / 0.07)).item(), rel=1e-5)


def test_a_missing_field_changes_nothing_by_what_stands_in_its_place() -> None:
    found = []
    for fill in (0.0, 3.0):
        method, views = built()
        method.eval()
        views[0].x[MISSING[0]] = fill
        terms = method(without(views, MISSING), 0.0)
        terms["info_nce"].backward()
        found.append([terms["info_nce"], *(p.grad for p in method.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(found[0]) == 1 + len(list(method.parameters()))


def test_the_scale_is_clamped_at_100() -> None:
    method, views = built(temperature=1e-3)
    assert method.scale.item() == pytest.approx(math.log(100))
    method.scale.data += 1
    method.after_step(0.0)
    assert method(views, 0.0)["scale"].item() == pytest.approx(100)


@pytest.mark.parametrize("frozen", ["image", "text"])
def test_a_frozen_tower_does_not_move_and_all_else_does(frozen: str) -> None:
    method, views = built(freeze=frozen)
    before = {name: value.clone() for name, value in method.named_parameters()}
    step = TrainingStep(method, TrainConfig(steps=2, batch_size=ROWS, optimizer="adamw", lr=0.1, weight_decay=0.1))
    method.train()
    for number in range(2):
        step(number, views, 0.5)
    tower = method.get_submodule(frozen)
    assert not any(part.training for part in tower.modules())
    moved = {name for name, value in method.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if not name.startswith(f"{frozen}.")}


def test_cached_gradients_are_those_of_the_whole_batch() -> None:
    found = []
    for cache in (0, 3):
        method, views = built()
        for part in method.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        step = TrainingStep(
            method, TrainConfig(steps=1, batch_size=ROWS, optimizer="sgd", lr=0.1, cache_gradients=cache, precision="float32")
        )
        step(0, without(views, MISSING), 0.5)
        found.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- two processes


def trained(place: int = 0, world: int = 1) -> dict[str, Tensor]:
    """Terms and gradients of the process's own pairs, averaged as DDP does."""
    method, views = built(rows=8)
    method.eval()  # without dropout
    own = [view[place::world] for view in without(views, [1, 5])]
    terms = method(own, 0.5)
    terms["info_nce"].backward()
    found = {**terms, **{name: p.grad for name, p in method.named_parameters() if p.grad is not None}}
    for key, value in found.items():
        found[key] = value.detach().clone()
        if world > 1:
            dist.all_reduce(found[key])
        found[key] /= world
    return found


def worker(place: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=place, world_size=WORLD)
    torch.save(trained(place, WORLD), f"{folder}/{place}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path: Path) -> None:
    """Of the missing pairs, one process has both: the mean is over the pairs of all processes, not over its own."""
    mp.spawn(worker, (str(tmp_path),), nprocs=WORLD)  # type: ignore[attr-defined]
    alone = trained()
    for place in range(WORLD):
        found = torch.load(tmp_path / f"{place}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-4)
