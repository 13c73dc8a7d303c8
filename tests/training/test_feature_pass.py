"""What a method sees of all samples before an epoch, and that it is asked once an epoch, also over a resume."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planted import TEST, TRAIN, VAL, dataset, planted
from torch import Tensor
from toy import Spread, fit
from toys import build

import untaught as ut
from untaught.core import ExtractFeatures as Survey_
from untaught.core import Terms, UserError, View
from untaught.methods.clustering.deepcluster import DeepCluster
from untaught.training import checkpoint
from untaught.training.feature_pass import ExtractFeatures

pytestmark = pytest.mark.usefixtures("bare_runs")


class Looking(Spread):
    """Remembers, in a buffer, what it was told before each epoch, and adds it to its loss."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.entered: list[int] = []
        self.asked: list[int] = []  # of the survey, which epoch's views

    def before_epoch(self, epoch: int, extract_features: Survey_) -> None:
        self.entered.append(epoch)
        _, rows = extract_features("look", 0)
        self.seen.copy_(rows.sum())

    def forward(self, views: list[View], progress: float) -> Terms:
        terms = super().forward(views, progress)
        return terms | {"size": terms["size"] * (1 + self.seen)}


def run(folder: Path, **knobs: Any) -> tuple[Any, Looking]:
    method = Looking()

    def extract_features(epoch: int, what: str, place: int) -> tuple[Tensor, Tensor]:
        method.asked.append(epoch)
        return torch.arange(2), method.head.weight.detach() * (epoch + 1)

    made = fit(folder, method, epochs=3, **{"save_every": 3, **knobs})
    made.extract_features = extract_features
    return made, method


def test_a_method_looks_on_entering_an_epoch_and_a_checkpoint_follows(tmp_path: Path) -> None:
    made, method = run(tmp_path, save_every=100)
    kept: list[int] = []
    made.save = lambda: kept.append(made.step)
    made.run()
    assert method.entered == method.asked == [0, 1, 2]
    assert kept == [0, 4, 8, 12]


@pytest.mark.parametrize("at", [3, 4, 6])
def test_a_resumed_run_does_not_look_again(tmp_path: Path, at: int) -> None:
    (tmp_path / "cut").mkdir()
    whole, expected = run(tmp_path / "whole")
    whole.run()
    first, _ = run(tmp_path / "cut")
    save = first.save

    def stop_after_saving() -> None:
        save()
        if first.step >= at:
            raise KeyboardInterrupt

    first.save = stop_after_saving
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second, method = run(tmp_path / "cut")
    state = checkpoint.load(tmp_path / "cut" / "checkpoints", print)
    assert state is not None
    second.restore(state)
    entered = second.entered
    second.run()
    assert method.entered == [epoch for epoch in (1, 2) if epoch > entered]
    for name, value in expected.state_dict().items():
        assert torch.equal(value, method.state_dict()[name]), name


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (41, 16, 16, 3), np.uint8)


SMALL: dict[str, Any] = {"encoder__width": 4, "batch_size": 8, "precision": "float32", "prototypes": 4, "width": 8}


def test_a_survey_has_every_training_sample_in_order_and_memory_mapped(
    tmp_path: Path, pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor, bool]] = []
    before_epoch, encode = DeepCluster.before_epoch, DeepCluster.encode

    def in_use(self: DeepCluster, view: View) -> Tensor:
        assert not any(module.training for module in self.modules())  # statistics of a batch would make a sample depend on others
        return encode(self, view)

    monkeypatch.setattr(DeepCluster, "encode", in_use)

    def watched(self: DeepCluster, epoch: int, extract_features: Survey_) -> None:
        seen.append((*extract_features("encode", 0), self.training))
        again = extract_features("encode", 0)
        assert all(torch.equal(a, b) for a, b in zip(seen[-1][:2], again, strict=True))
        before_epoch(self, epoch, extract_features)

    monkeypatch.setattr(DeepCluster, "before_epoch", watched)
    monkeypatch.setattr("untaught.api.finish", lambda run: None)  # neither exported nor reported
    ut.pretrain(pictures, "deepcluster", out=tmp_path / "run", epochs=2, **SMALL)
    assert len(seen) == 2
    for index, rows, training in seen:
        assert index.tolist() == sorted(set(index.tolist()))
        assert rows.shape == (len(index), 8)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(index)))
        assert training
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize(("epoch", "place"), [(0, 0), (3, 2)])
def test_a_survey_is_of_the_network_in_use_and_of_the_view_of_that_epoch_and_place(tmp_path: Path, epoch: int, place: int) -> None:
    built: Any = build(DeepCluster, "image")
    method, views, batch = built
    parts = [{key: value[start : start + 7] for key, value in batch.items()} for start in range(0, 24, 7)]
    loader: Any = SimpleNamespace(rows=range(24), batches=lambda epoch: parts)
    call = lambda what, view: getattr(method, what)(view)  # noqa: E731
    before = {key: value.clone() for key, value in method.state_dict().items()}
    index, rows = ExtractFeatures(loader, views, method, call, torch.device("cpu"), tmp_path)(epoch, "encode", place)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items()), "no statistic of BatchNorm moves"
    assert method.training
    view = views(batch, epoch)[place]
    projected = method.eval().projector(method.encoder(view))  # by running statistics, whatever is in the batch
    assert torch.equal(index, batch["index"])
    torch.testing.assert_close(rows, F.normalize(projected), atol=1e-5, rtol=1e-5)


def test_a_stream_refuses_a_method_that_looks_at_all(tmp_path: Path, pictures: np.ndarray) -> None:
    with pytest.raises(UserError, match="DeepCluster needs features of all samples before each epoch"):
        ut.pretrain(pictures, "deepcluster", out=tmp_path / "run", steps=2, stream=True, **SMALL)


def test_there_is_room_for_the_number_of_every_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch's index is that of the store, of which some rows are held out: a buffer of the training rows alone would be too short."""
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path))
    found = dataset(planted())
    assert (found.train_rows, found.rows) == (TRAIN, TRAIN + VAL + TEST)
