"""Two processes, each on its half of every batch, are one process on the whole: views, losses, gradients, weights."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import together
from torch import Tensor
from torch.distributed.tensor import DTensor
from toys import MODALITIES, build, toy_encoder

from untaught.config.registry import method_class
from untaught.config.train_config import TrainConfig
from untaught.core import Batch, Method
from untaught.distributed.process_group import ProcessGroup
from untaught.methods import METHODS
from untaught.training.step import TrainingStep
from untaught.training.trainer import Trainer

PLAIN: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.02, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
LOOP: dict[str, Any] = PLAIN | {"batch_size": 12, "steps": 2, "precision": "float32", "log_every": 1}
PICTURES = [name for name in METHODS if set(method_class(name).views) <= set(MODALITIES["image"].views)]
OWN_BATCH = ("ts2vec",)  # whose negatives are those of a process's own batch, as its header says
CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {  # name -> method, whether a ViT, knobs of the loop
    **{name: (name, False, {}) for name in PICTURES if not method_class(name).needs},
    **{f"{name} vit": (name, True, {}) for name in PICTURES if method_class(name).needs or name in ("mocov3", "dino")},
    **{name: (name, False, {}) for name in METHODS if name not in (*PICTURES, *OWN_BATCH)},  # of text, pairs, sound and rows
    "hybrid": ("moco+deepcluster:0.5", False, {}),
    "hybrid vit": ("simclr+mae:0.5", True, {"accumulate": 2}),
    "accumulated": ("simclr", False, {"accumulate": 2}),
    "cached": ("vicreg", False, {"cache_gradients": 4}),
    "fsdp sgd": ("byol", True, {"strategy": "fsdp", "clip": 0.1}),
    "fsdp adamw": ("simclr", True, {"strategy": "fsdp", "optimizer": "adamw", "lr": 1e-4, "accumulate": 2}),
    "fsdp muon": ("dino", True, {"strategy": "fsdp", "optimizer": "muon", "lr": 0.002}),
    "fsdp cached": ("vicreg", True, {"strategy": "fsdp", "cache_gradients": 4}),
    "fsdp conv": ("simclr", False, {"strategy": "fsdp"}),
    "fsdp clip": ("clip", False, {"strategy": "fsdp"}),
    "clip cached": ("clip", False, {"cache_gradients": 4}),
    "fsdp mae": ("mae", True, {"strategy": "fsdp"}),
    "fsdp hybrid": ("byol+dino:0.5", True, {"strategy": "fsdp"}),
    "clipped": ("byol", False, {"clip": 0.1}),
    "players accumulated": ("bigan", False, {"accumulate": 2, "clip": 0.1}),
    "muon": ("dino", True, {"optimizer": "muon", "lr": 0.002}),
}
KNOBS: dict[str, dict[str, Any]] = {
    "bigan": {"maps": 8},
    "w_mse": {"width": 4, "slice": 6},
    "dino": {"prototypes": 32, "hidden": 16, "frozen": 0.0, "normed": True, "teacher_temperature": (0.02, 0.02)},
    "swav": {"frozen": 0.0, "queue_start": 0.3},
    "ibot": {"hidden": 16, "frozen": 0.0},
    "dinov2": {"hidden": 16, "frozen": 0.0},
    "byol+dino:0.5": {"dino.prototypes": 32, "dino.hidden": 16, "dino.frozen": 0.0},
}


class Shares:
    """12 rows a step of the toy batch, and of each a process's share."""

    steps_per_epoch = 2

    def __init__(self, batch: Batch, group: ProcessGroup) -> None:
        self.batch, self.group = batch, group

    def batches(self, epoch: int, step: int = 0) -> Iterator[Batch]:
        for start in range(12 * step, 24, 12):
            yield {key: value[start : start + 12][self.group.rank :: self.group.size] for key, value in self.batch.items()}


def gradients_of(method: Method) -> dict[str, Tensor]:
    return {name: in_one_piece(p.grad).clone() for name, p in method.named_parameters() if p.grad is not None}


def in_one_piece(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def train(folder: str) -> dict[str, Any]:
    """Each case -> how far the state has moved, gradients of the first step, losses, and the views that this process saw first."""
    results = {}
    for name, (method_name, tokens, knobs) in CASES.items():
        cls = method_class(method_name)
        train_config = TrainConfig(**(LOOP | knobs))
        group = ProcessGroup(train_config, cls.find_unused_parameters)
        torch.manual_seed(0)
        kind = next(
            kind for kind in ("image", "text", "image_text", "waveform", "table", "series") if set(cls.views) <= set(MODALITIES[kind].views)
        )
        one = len(cls.roles()) == 1
        needs = frozenset({"tokens"}) if tokens else frozenset()
        encoder = toy_encoder(needs | cls.roles()["encoder"].needs, kind) if one else None
        method, views, batch = build(cls, kind, encoder, **KNOBS.get(method_name, {}))
        place = Path(tempfile.mkdtemp(dir=folder))
        shares = Shares(batch, group)
        seen, before = [view.x for view in views(next(shares.batches(0)), 0)], copy.deepcopy(method.state_dict())
        gradients: list[dict[str, Tensor]] = []
        method.before_step = lambda progress, method=method, gradients=gradients: gradients.append(gradients_of(method))
        step: Any = TrainingStep(method, train_config, group)
        Trainer(step, views, shares, place, name=lambda index: [], resumable=False).run()
        results[name] = {
            "moved": {key: (in_one_piece(value) - before[key]).float() for key, value in method.state_dict().items()},
            "gradients": gradients[0],
            "losses": [json.loads(line)["loss"] for line in (place / "metrics.jsonl").open()] if group.is_rank_zero else [],
            "views": seen,
        }
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """case -> the results of one process, and of both of two."""
    folder = tmp_path_factory.mktemp("equal")
    (alone,), pair = (together(world, train, str(folder), folder=folder) for world in (1, 2))
    return {name: {"alone": alone[name], "pair": [one[name] for one in pair]} for name in CASES}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_one(case: str, trained: dict[str, dict[str, Any]]) -> None:
    alone, (first, second) = trained[case]["alone"], trained[case]["pair"]
    assert first["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-6, abs=1e-6)
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-3)  # later steps carry rounding on
    assert len(alone["losses"]) == 2
    assert first["gradients"].keys() == alone["gradients"].keys()
    largest = max(gradient.abs().max() for gradient in alone["gradients"].values())
    for name, gradient in alone["gradients"].items():
        assert (first["gradients"][name] - gradient).abs().max() <= 1e-5 * largest, name
    muon = "muon" in case  # it makes its steps orthogonal in bfloat16, and takes steps of one length where a gradient is noise
    tolerance, least = (0.25, 1e-4) if muon else (0.05, 1e-5)
    for name, moved in alone["moved"].items():
        gradient = alone["gradients"].get(name)
        if gradient.abs().max() > 1e-3 * largest if gradient is not None else not muon:
            assert (first["moved"][name] - moved).norm() <= tolerance * moved.norm() + least, name
        assert torch.equal(first["moved"][name], second["moved"][name]), name


@pytest.mark.parametrize("case", ["dino", "mae vit"])
def test_each_process_sees_its_share_of_the_same_views(case: str, trained: dict[str, dict[str, Any]]) -> None:
    for whole, *parts in zip(trained[case]["alone"]["views"], *(one["views"] for one in trained[case]["pair"]), strict=True):
        assert all(torch.equal(part, whole[place::2]) for place, part in enumerate(parts))
