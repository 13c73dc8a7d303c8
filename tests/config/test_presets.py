"""The paper's settings and those of short runs: which apply, what they change, and that every method's are valid."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import untaught as ut
from untaught import api
from untaught.commands.request import resolve
from untaught.config.overrides import knobs_of, sort_knobs
from untaught.config.presets import BY_OPTIMIZER, chosen_defaults, encoder_defaults, with_defaults
from untaught.config.registry import method_class, modality_named
from untaught.config.train_config import TrainConfig
from untaught.core import Encoder, Method, Preprocessor, Terms, UserError, View
from untaught.encoders.timm import ViT, is_vit, timm_encoder, vit_mini
from untaught.methods import METHODS
from untaught.methods.contrastive.moco import MoCo
from untaught.methods.contrastive.simclr import SimCLR
from untaught.methods.distillation.byol import BYOL
from untaught.methods.distillation.dino import DINO
from untaught.methods.reconstruction.seq2seq_denoising import Seq2SeqDenoising
from untaught.modalities.image import IMAGE
from untaught.pipeline.view_pipeline import view_names, view_options
from untaught.report.method_cards import method_cards
from untaught.training.optim import layer_weights, optimizer_for, parameter_groups, set_decay

# --------------------------------------------------------------------------------------------------------------- which


@pytest.mark.parametrize(
    ("knobs", "recorded", "expected"),
    [
        ({}, None, "short"),
        ({"epochs": "99"}, None, "short"),
        ({"epochs": "100"}, None, "paper"),
        ({"epochs": 800}, None, "paper"),
        ({"minutes": 600}, None, "short"),
        ({"epochs": 200, "defaults": "short"}, None, "short"),
        ({"defaults": "paper"}, None, "paper"),
        ({"epochs": 200}, "short", "short"),  # a short run that is resumed and prolonged
        ({"epochs": 50}, "paper", "paper"),
    ],
)
def test_long_runs_take_the_papers_settings(knobs: dict[str, Any], recorded: str | None, expected: str) -> None:
    assert chosen_defaults(DINO, knobs, recorded)[0] == expected


def test_the_reason_is_given_with_the_way_out() -> None:
    assert chosen_defaults(DINO, {"epochs": 300})[1] == "100 epochs or more; for a short run's, defaults=short"
    assert "defaults=paper" in chosen_defaults(DINO, {})[1]
    assert chosen_defaults(DINO, {"defaults": "paper"})[1] == ""


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"defaults=papers: must be paper or short"):
        chosen_defaults(DINO, {"defaults": "papers"})
    with pytest.raises(UserError, match=r"Seq2SeqDenoising has no settings of a paper"):
        chosen_defaults(Seq2SeqDenoising, {"defaults": "paper"})
    assert chosen_defaults(Seq2SeqDenoising, {"epochs": 500}) == ("short", "")


# ---------------------------------------------------------------------------------------------------------------- what


def test_a_knob_overrides_one_setting() -> None:
    found = with_defaults(DINO, "paper", {"clip": "1", "defaults": "paper"})
    assert (found["clip"], found["weight_decay_end"], "defaults" in found) == ("1", 0.4, False)
    assert with_defaults(DINO, "short", {"normed": "false"}) == {
        "momentum": 0.99,
        "teacher_temperature": (0.02, 0.02),
        "normed": "false",
    }


def test_a_learning_rate_in_either_form_replaces_the_papers() -> None:
    lejepa, byol = method_class("lejepa"), with_defaults(BYOL, "paper", {"lr": "0.1"})
    assert "lr" in lejepa.paper
    found = with_defaults(lejepa, "paper", {"base_lr": "1e-3"})
    assert (found["base_lr"], "lr" in found) == ("1e-3", False)
    assert (byol["lr"], "base_lr" in byol) == ("0.1", False)
    with pytest.raises(UserError, match=r"lr=0\.1 base_lr=0\.2: give one of them; base_lr is lr for a batch of 256"):
        with_defaults(BYOL, "short", {"lr": "0.1", "base_lr": "0.2"})


def test_a_resumed_run_takes_a_learning_rate_in_the_other_form(tmp_path: Path) -> None:
    short: dict[str, Any] = {"out": tmp_path, "size": 8, "batch_size": 8, "evaluate_every": 0, "encoder__width": 4}
    ut.pretrain("builtin:digits", "simclr", encoder="conv_small", steps=1, base_lr=0.1, **short)
    ut.pretrain(out=tmp_path, resume=True, steps=2, lr=0.01)
    knobs = yaml.safe_load((tmp_path / "run.yaml").read_text())["knobs"]
    assert (knobs["lr"], "base_lr" in knobs) == (0.01, False)


def test_another_optimizer_drops_the_rates_that_suit_only_the_papers() -> None:
    kept = with_defaults(BYOL, "paper", {"optimizer": "adamw"})
    assert kept == {"optimizer": "adamw", "warmup": 0.01}
    assert with_defaults(MoCo, "short", {"optimizer": "sgd"}) == {"optimizer": "sgd", "momentum": 0.99}  # the teacher's, not SGD's
    assert {*BY_OPTIMIZER} <= knobs_of(TrainConfig).keys()


def test_a_plain_knob_of_a_hybrid_overrides_all_its_members_settings() -> None:
    hybrid = method_class("byol+moco")
    assert with_defaults(hybrid, "short", {}) == {"byol.momentum": 0.99, "moco.momentum": 0.99}
    assert with_defaults(hybrid, "short", {"momentum": 0.9}) == {"momentum": 0.9}
    assert with_defaults(hybrid, "short", {"moco.momentum": 0.9}) == {"byol.momentum": 0.99, "moco.momentum": 0.9}
    assert with_defaults(hybrid, "paper", {})["optimizer"] == "lars"  # the first one's


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_settings_are_valid(name: str) -> None:
    cls = method_class(name)
    kinds = map(modality_named, ("image", "text", "image_text", "audio", "series", "table"))
    modality = next(m for m in kinds if set(cls.views) <= m.views.keys())
    for defaults in ("short", *(["paper"] if cls.paper else [])):
        knobs = sort_knobs(with_defaults(cls, defaults, {}), cls, modality, TrainConfig)
        TrainConfig(**knobs["loop"])
        views = {"whole"} if (name, defaults) == ("feature_distillation", "short") else set(cls.views)
        assert set(view_names(cls, modality, knobs["views"])) == views
    if own := encoder_defaults(cls, "paper"):
        assert vit_mini(size=16, depth=2, embed_dim=24, **own).width == 24
    if cls.view_presets:
        settings = {"size": 224, "side": 256, "channels": 3, "bits": 8, "preset": "photo"}
        assert view_options(cls.views, Preprocessor(IMAGE, settings), {}, cls) != view_options(cls.views, Preprocessor(IMAGE, settings), {})


def test_which_methods_have_no_settings_of_a_paper() -> None:
    """gram is a term beside another method; BART's settings were never published; TimesFM's are for a corpus of 100 billion time points."""
    without = {name for name in METHODS if not method_class(name).paper}
    assert without == {"gram", "seq2seq_denoising", "margin", "forecasting"}


def test_byols_photographs_are_those_of_its_appendix() -> None:
    """Table 6 of the paper (BYOL, appendix B)."""

    def options(preset: str, overrides: dict[str, Any]) -> list[dict[str, Any]]:
        prep = Preprocessor(IMAGE, {"size": 224, "side": 256, "channels": 3, "bits": 8, "preset": preset})
        return view_options(BYOL.views, prep, overrides, BYOL)

    first, second = options("photo", {})
    table = {
        "scale": (0.08, 1.0),
        "flip": 0.5,
        "jitter": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.2,
        "hue": 0.1,
        "grey": 0.2,
    }
    assert {key: first[key] for key in table} == {key: second[key] for key in table} == table
    assert [(view["blur"], view["solarize"]) for view in (first, second)] == [(1.0, 0.0), (0.1, 0.2)]
    assert [view["blur"] for view in options("photo", {"global.blur": "0.3"})] == [0.3, 0.1]
    assert [view["blur"] for view in options("small", {})] == [0.0, 0.0]  # small images keep their preset


def test_any_number_of_small_crops_may_be_requested() -> None:
    assert view_names(DINO, IMAGE, "global,global2,local") == ("global", "global2", "local")
    assert len(view_names(DINO, IMAGE, with_defaults(DINO, "paper", {})["views"])) == 10
    with pytest.raises(UserError, match="takes"):
        view_names(DINO, IMAGE, "global,local")
    with pytest.raises(UserError, match="takes 2 views"):
        view_names(SimCLR, IMAGE, "global,global,global")


@pytest.mark.parametrize("count", [1, 3])
def test_dino_learns_from_any_number_of_small_crops(count: int, tmp_path: Path) -> None:
    knobs = {
        "views": ",".join(["global", "global2", *["local"] * count]),
        "encoder.width": 8,
        "batch_size": 32,
        "steps": 2,
        "prototypes": 16,
    }
    run = ut.pretrain("builtin:digits", "dino", out=tmp_path / "run", evaluate_every=0, **knobs)
    assert len(yaml.safe_load((run.path / "run.yaml").read_text())["resolved"]["views"]) == 2 + count


# ----------------------------------------------------------------------------------------------------------------- run


def test_a_run_says_and_keeps_which_settings_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs: dict[str, Any] = {"encoder.width": 8, "batch_size": 64, "evaluate_every": 0}
    out = tmp_path / "run"
    ut.pretrain("builtin:digits", "byol", out=out, defaults="paper", steps=2, **knobs)
    assert "defaults  the paper's" in capsys.readouterr().err
    record = yaml.safe_load((out / "run.yaml").read_text())
    assert record["defaults"] == "paper"
    loop = record["resolved"]["loop"]
    assert (loop["optimizer"], loop["weight_decay"], record["resolved"]["method"]["momentum"]) == ("lars", 1.5e-6, 0.996)
    assert loop["lr"] == pytest.approx(0.2 * 64 / 256)
    ut.pretrain(out=out, resume=True, steps=3)
    assert "defaults  the paper's" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"defaults=short: the run in .* has defaults=paper"):
        ut.pretrain(out=out, resume=True, defaults="short")
    ut.pretrain("builtin:digits", "byol", out=tmp_path / "other", steps=2, **knobs)
    assert "defaults  for short runs (fewer than 100 epochs; for the paper's, defaults=paper)" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "other" / "run.yaml").read_text())["resolved"]["method"]["momentum"] == 0.99


def test_a_run_is_repeated_with_the_settings_that_it_had(tmp_path: Path) -> None:
    """Also one from before there was a choice, and with a number of epochs that would choose the paper's."""
    knobs: dict[str, Any] = {"encoder.width": 8, "batch_size": 64, "evaluate_every": 0}
    done = ut.pretrain("builtin:digits", "byol", out=tmp_path / "run", steps=1, **knobs)
    repeated = ut.pretrain(again=done.path, out=tmp_path / "again")
    record = yaml.safe_load((done.path / "run.yaml").read_text())
    assert yaml.safe_load((repeated.path / "run.yaml").read_text()) == record
    del record["defaults"]
    old = tmp_path / "old.yaml"
    old.write_text(yaml.safe_dump(record | {"knobs": {**record["knobs"], "steps": "none", "epochs": 100}}))
    arguments = api._pretrain_arguments(None, None, None, None, None, None, None, None, old, {})
    assert resolve(arguments, resume=False).train_config.optimizer == "muon"
    assert resolve(dataclasses.replace(arguments, defaults=None), resume=False).train_config.optimizer == "lars"


def test_cards_show_both() -> None:
    (card,) = method_cards("dino")
    assert card["settings"]["weight_decay_end"] == {"paper": "0.4", "short": "none"}
    assert card["settings"]["momentum"] == {"paper": "0.996", "short": "0.99"}
    assert card["settings"]["encoder.drop_path_rate"] == {"paper": "0.1", "short": "the default"}
    assert "global2.solarize=0.2" in card["photographs"]


# ----------------------------------------------------------------------------------------------------------- optimizer


class Plain(Method):
    """A ViT and a head."""

    views = ("global",)

    def __init__(self) -> None:
        super().__init__()
        self.encoder: ViT = vit_mini(size=16, depth=2, embed_dim=24)  # type: ignore[assignment]
        self.head = nn.Linear(24, 3000 * 24, bias=False)  # 1 : 3000, which timm's rule leaves to AdamW

    def forward(self, views: list[View], progress: float) -> Terms:
        return {"loss": torch.stack([p.square().sum() for p in self.parameters()]).sum()}


def rates(method: Method, **knobs: Any) -> dict[str, float]:
    built = optimizer_for(method, TrainConfig(lr=0.1, optimizer="adamw", **knobs))
    names = {id(p): name for name, p in method.named_parameters()}
    return {names[id(p)]: round(group["lr_scale"], 6) for group in built.param_groups for p in group["params"]}


def test_layers_of_the_encoder_learn_more_slowly_the_lower_they_are() -> None:
    found = rates(Plain(), layer_decay=0.5)
    assert found["encoder.model.patch_embed.proj.weight"] == found["encoder.model.pos_embed"] == 0.5**3
    assert [found[f"encoder.model.blocks.{i}.mlp.fc1.weight"] for i in range(2)] == [0.25, 0.5]
    assert (found["encoder.model.norm.weight"], found["head.weight"]) == (0.5, 1.0)  # the last norm belongs to the last block


def test_biases_and_patches_have_rates_of_their_own() -> None:
    found = rates(Plain(), bias_lr=0.024, patch_lr=0.2)
    assert found["encoder.model.blocks.0.mlp.fc1.bias"] == found["encoder.model.norm.weight"] == 0.024
    assert found["encoder.model.patch_embed.proj.weight"] == 0.2
    assert found["encoder.model.blocks.0.mlp.fc1.weight"] == found["head.weight"] == 1.0


def test_the_weight_decay_rises_on_a_cosine_where_there_is_one() -> None:
    method = Plain()
    built = optimizer_for(method, TrainConfig(lr=0.1, optimizer="adamw", weight_decay=0.04, weight_decay_end=0.4))
    for progress in (0.0, 0.25, 0.5, 1.0):
        set_decay(built, 0.04, 0.4, progress)
        expected = 0.4 - 0.36 * (1 + math.cos(math.pi * progress)) / 2
        assert sorted({group["weight_decay"] for group in built.param_groups}) == [0.0, pytest.approx(expected)]
    set_decay(built, 0.4, 0.0, 1.0)
    set_decay(built, 0.4, 0.0, 0.0)  # from 0 it comes back
    assert max(group["weight_decay"] for group in built.param_groups) == 0.4


def test_a_group_without_decay_has_none_on_any_schedule() -> None:
    class Exempt(Plain):
        groups = {"head": {"weight_decay": 0.0}}

    built = optimizer_for(Exempt(), TrainConfig(lr=0.1, optimizer="adamw", weight_decay=0.04, weight_decay_end=0.4))
    set_decay(built, 0.04, 0.4, 0.5)
    (group,) = [group for group in built.param_groups if any(p.shape == (72_000, 24) for p in group["params"])]
    assert group["weight_decay"] == 0.0


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "lamb"])
def test_betas_are_passed_on(optimizer: str) -> None:
    built = optimizer_for(Plain(), TrainConfig(lr=0.1, optimizer=optimizer, betas=(0.8, 0.95)))
    assert {group["betas"] for group in built.param_groups} == {(0.8, 0.95)}


def test_muon_updates_weights_of_layers_whatever_their_shape() -> None:
    method = Plain()
    built = optimizer_for(method, TrainConfig(lr=0.01))
    method([], 0.0)["loss"].backward()
    built.step()
    routed = {name: built.state[p]["use_muon"] for name, p in method.named_parameters()}
    assert routed["head.weight"] is True
    assert routed["encoder.model.patch_embed.proj.weight"] is True
    assert routed["encoder.model.pos_embed"] is False
    assert {routed[name] for name, p in method.named_parameters() if p.ndim == 1} == {False}


def test_layer_weights_are_matrices_of_layers() -> None:
    parts = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 4),
            "one": nn.Linear(3, 1),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "conv": nn.Conv2d(3, 4, 3),
            "embedding": nn.Embedding(5, 4),
            "attention": nn.MultiheadAttention(4, 1),
        }
    )
    parts["tied"] = nn.Linear(4, 5, bias=False)
    parts["tied"].weight = parts["embedding"].weight  # type: ignore[assignment]
    found = set(map(id, layer_weights(parts)))
    names = {name for name, p in parts.named_parameters() if id(p) in found}
    assert names == {"linear.weight", "conv.weight", "attention.in_proj_weight", "attention.out_proj.weight"}


# ------------------------------------------------------------------------------------------------------------- encoder


def sines(grid: int, width: int) -> Tensor:
    """MAE's positions, in loops: half of the width for the row and half for the column, each sines, then cosines."""
    rows = []
    for i in range(grid):
        for j in range(grid):
            row: list[float] = []
            for place in (i, j):
                angles = [place / 10000 ** (4 * k / width) for k in range(width // 4)]
                row += [*map(math.sin, angles), *map(math.cos, angles)]
            rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("class_token", [False, True])
def test_fixed_positions_are_sines_and_cosines(class_token: bool) -> None:
    encoder: Any = timm_encoder(
        "vit_tiny_patch16_224", size=32, patch_size=8, embed_dim=24, depth=1, num_heads=1, class_token=class_token,
        global_pool="token" if class_token else "avg", positions="sines", freeze_patches=True,
    )  # fmt: skip
    found = encoder.model.pos_embed
    torch.testing.assert_close(found[0, -16:], sines(4, 24))
    assert not found.requires_grad
    assert not found[0, :-16].any()
    assert not any(p.requires_grad for p in encoder.model.patch_embed.parameters())
    assert encoder.model.blocks[0].mlp.fc1.weight.requires_grad


def test_they_are_for_vision_transformers() -> None:
    with pytest.raises(
        UserError, match=r"positions=sines and freeze_patches=true are for vision transformers .*, which timm/resnet18 is not"
    ):
        timm_encoder("resnet18", size=32, positions="sines")
    assert [is_vit(name) for name in ("vit_mini", "timm/vit_base_patch16_224", "timm/resnet18", "conv_small")] == [True, True, False, False]


def test_a_method_has_its_encoders_frozen_parameters_in_no_group() -> None:
    class Frozen(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = vit_mini(size=16, depth=1, embed_dim=24, positions="sines")  # type: ignore[assignment]

    method = Frozen()
    assert isinstance(method.encoder, Encoder)
    assert id(method.encoder.model.pos_embed) not in {id(p) for group in parameter_groups(method, 0.1) for p in group["params"]}
