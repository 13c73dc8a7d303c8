"""What is measured: each network shown data in its own way, beside one that has learned nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from planted import SIDE, planted
from torch import nn

import untaught as ut
from untaught.config.registry import build_encoder
from untaught.core import Options, Preprocessor, UserError
from untaught.evaluation.evaluate import evaluate
from untaught.evaluation.evaluator import Scorer
from untaught.evaluation.models import open_model, random_init_encoder, reinitialised
from untaught.modalities.image import IMAGE
from untaught.pipeline.pretrained import Pretrained

LAYOUT: Options = {"size": SIDE, "side": SIDE, "channels": 1, "bits": 8, "preset": "upright"}
OWN, OTHER = {"mean": [0.4], "std": [0.3]}, {"mean": [0.1], "std": [0.2]}
CONFIG: Options = {"encoder": "conv_small", "encoder_knobs": {"width": "4"}, "modality": "image", "layout": LAYOUT, "view": "whole"}


def ours(folder: Path) -> tuple[Pretrained, Path]:
    prep = Preprocessor(IMAGE, LAYOUT, OWN)
    return Pretrained(build_encoder("conv_small", prep.encoder_arguments, {"width": "4"}).eval(), CONFIG, prep), folder


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, 2), nn.BatchNorm2d(3), nn.ReLU())


def test_a_network_knows_its_statistics_and_size_and_a_module_those_of_the_data(tmp_path: Path) -> None:
    known, bare = open_model(ours(tmp_path)), open_model(net(), lambda: IMAGE)
    data, large = Preprocessor(IMAGE, LAYOUT, OTHER), Preprocessor(IMAGE, LAYOUT | {"size": 32, "side": 32}, OTHER)
    assert known.shown(data).statistics == OWN
    assert bare.shown(data).statistics == OTHER
    assert [model.views(large, ("whole",)).options[0]["size"] for model in (known, bare)] == [SIDE, 32]
    foreign = replace(
        bare, shown_as={"size": 24, "mean": [0.2, 0.4, 0.6], "std": [0.1, 0.2, 0.3]}
    )  # of colours, its first layer made to fit
    found = foreign.shown(data)
    assert (found.statistics["mean"], found.statistics["std"]) == (pytest.approx([0.4]), pytest.approx([0.2]))
    assert foreign.views(data, ("whole",)).options[0]["size"] == 24


def test_each_encoder_is_shown_the_data_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", str(tmp_path / "cache"))
    seen: dict[str, list[Any]] = {}

    def battery(self: Scorer, features: str, encoder: Any, views: Any = None) -> list[Options]:
        seen[features] = [encoder, *(each.prep.statistics for each in views or ())]
        return []

    monkeypatch.setattr(Scorer, "battery", battery)
    target, peer = ours(tmp_path), net()
    before = copy.deepcopy(peer.state_dict())
    evaluate(target, planted(), against=[peer], label="label", split="split")
    data = seen["against:Sequential"][1]
    assert {name: statistics for name, (_, *statistics) in seen.items()} == {
        "encoder": [OWN, OWN],
        "random_init": [OWN, OWN],
        "against:Sequential": [data, data],
        "raw": [],
    }
    assert data["mean"] == pytest.approx([1 / SIDE**2])  # one bright pixel an image
    first = next(iter(target[0].network.parameters()))
    assert torch.equal(next(iter(seen["encoder"][0].parameters())), first)
    assert not torch.equal(next(iter(seen["random_init"][0].parameters())), first)
    assert all(torch.equal(value, before[name]) for name, value in peer.state_dict().items())


def test_an_untrained_encoder_is_the_one_that_a_run_of_this_seed_begins_with() -> None:
    found = [random_init_encoder("conv_small", IMAGE.encoder_arguments(LAYOUT), {"width": "4"}, seed) for seed in (3, 3, 4)]
    torch.manual_seed(3)
    began = build_encoder("conv_small", IMAGE.encoder_arguments(LAYOUT), {"width": "4"})
    weights = [list(encoder.parameters()) for encoder in (*found, began)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[3], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])


def test_weights_are_reinitialised_by_seed_in_a_copy() -> None:
    module: Any = net()
    module[1].running_mean.fill_(5.0)
    before = copy.deepcopy(module.state_dict())
    again: list[Any] = [reinitialised(module, seed) for seed in (0, 0, 1)]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(again[0][0].weight, again[1][0].weight)
    assert not torch.equal(again[0][0].weight, again[2][0].weight)
    assert not torch.equal(again[0][0].weight, before["0.weight"])
    assert again[0][1].running_mean.tolist() == [0, 0, 0]
    assert not again[0].training
    module.scale = nn.Parameter(torch.ones(3))  # which no reset_parameters draws
    assert reinitialised(module, 0) is None


def test_a_checkpoint_of_text_stands_beside_the_run_that_went_on_from_it(
    tmp_path: Path, bare_runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Path(__file__).parents[1] / "old_runs" / "mlm" / "method"
    name = f"transformers/{checkpoint}"
    small: Any = {"steps": 2, "batch_size": 16, "length": 16, "evaluate_every": 0, "precision": "float32"}
    run = ut.pretrain("builtin:topics", "mlm", modality="text", encoder=name, out=tmp_path / "run", **small)
    texts = [f"a list of {i} numbers" if i % 2 else f"the file {i} is closed" for i in range(60)]
    labelled = pyarrow.table({"text": texts, "label": [i % 2 for i in range(60)]})
    rows = ut.evaluate(run, labelled, against=[name])
    assert {row["features"] for row in rows} >= {"encoder", "random_init", "raw", f"against:{name}"}
    with pytest.raises(UserError, match=r"^length=128: transformers/.* has 16 positions; give length=16 or less$"):
        ut.evaluate(name, labelled, modality="text", out=tmp_path / "alone.json")
    assert "input     length 128, " in capsys.readouterr().err
    alone = ut.evaluate(name, labelled, modality="text", out=tmp_path / "alone.json", length=16)
    assert "input     length 16, " in capsys.readouterr().err
    of = lambda found, features: [row["mean"] for row in found if row["features"] == features and row["probe"] == "linear"]  # noqa: E731
    assert of(alone, "encoder") == pytest.approx(of(rows, f"against:{name}"), abs=0.2)  # the same checkpoint, read alike
    with pytest.raises(UserError, match=r"^length=8: the trained encoder has its own length 16; leave it out$"):
        ut.evaluate(run, labelled, length=8)
    with pytest.raises(UserError, match=r"unknown knob lenght; did you mean length\?"):
        ut.evaluate(name, labelled, modality="text", out=tmp_path / "alone.json", lenght=8)
    small |= {"vocabulary": 200, "encoder__width": 16}
    other = ut.pretrain("builtin:topics", "mlm", modality="text", out=tmp_path / "other", **small)
    with pytest.raises(UserError, match="has another tokenizer than the data"):
        ut.evaluate(other, labelled, against=[name])
