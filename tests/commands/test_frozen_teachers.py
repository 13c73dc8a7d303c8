"""Frozen teachers of a run: by name, folder and module; their preprocessing; what is stored of them; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from torch import nn

import untaught as ut
from untaught.commands.teachers import digest
from untaught.core import Preprocessor, UserError, View
from untaught.modalities.image import IMAGE, adapted
from untaught.modalities.series import SERIES

IMAGES = np.random.default_rng(0).integers(0, 255, (24, 16, 16, 3), np.uint8)
SMALL: Any = {"steps": 2, "batch_size": 12, "encoder__width": 2, "evaluate_every": 0, "size": 16}


@pytest.fixture(scope="module", autouse=True)
def _without_export() -> Iterator[None]:
    """The export and the report of every run take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("untaught.api.finish", lambda trained: None)
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    ut.pretrain(IMAGES, out=out, **SMALL | {"encoder__width": 4})
    return out


def distil(out: Path, teachers: Any, data: Any = IMAGES, **knobs: Any) -> ut.Run:
    return ut.pretrain(data, "feature_distillation", teachers=teachers, out=out, **SMALL | knobs)


def test_a_run_is_a_teacher_and_only_its_name_and_checksum_are_stored(teacher: Path, tmp_path: Path) -> None:
    run = distil(tmp_path / "student", str(teacher))
    assert run.encoder.width == 16
    record = yaml.safe_load((run.path / "run.yaml").read_text())
    assert record["teachers"] == {str(teacher): digest(ut.Run(teacher).encoder)}
    state = torch.load(next(run.path.glob("checkpoints/step-2/state.pt")), weights_only=True)["method"]
    widths = {tuple(value.shape) for key, value in state.items() if key.startswith("encoder.")}
    known = {tuple(value.shape) for value in run.encoder.state_dict().values()}
    assert widths == known
    assert not [key for key in state if key.startswith("teachers")]


def test_short_runs_read_whole_images_and_keep_the_teachers_vectors(teacher: Path, tmp_path: Path) -> None:
    short, paper = (distil(tmp_path / name, teacher, defaults=name) for name in ("short", "paper"))
    found = [yaml.safe_load((run.path / "run.yaml").read_text())["resolved"]["views"][0]["name"] for run in (short, paper)]
    assert found == ["whole", "global"]
    with pytest.raises(UserError, match="streamed data has no fixed length; give stream=false or views=global"):
        distil(tmp_path / "stream", teacher, stream=True)
    distil(tmp_path / "stream2", teacher, stream=True, views="global")


def test_a_teacher_is_found_from_another_folder(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of older versions have relative paths, which are still compared by their weights."""
    monkeypatch.chdir(teacher.parent)
    np.save(tmp_path / "images.npy", IMAGES)
    out = tmp_path / "student"
    distil(out, "run", tmp_path / "images.npy")
    file = out / "run.yaml"
    assert yaml.safe_load(file.read_text())["knobs"]["teachers"] == str(teacher)
    assert list(yaml.safe_load(file.read_text())["teachers"]) == [str(teacher)]
    monkeypatch.chdir(tmp_path)
    ut.pretrain(out=out, resume=True, steps=3)
    file.write_text(file.read_text().replace(str(teacher), "run"))
    (tmp_path / "run").symlink_to(teacher)
    ut.pretrain(out=out, resume=True, steps=4)
    file.write_text(file.read_text().replace(str(tmp_path / "run"), "run"))
    (tmp_path / "run").unlink()
    ut.pretrain(IMAGES, out=tmp_path / "run", **SMALL | {"encoder__width": 4, "seed": 1})
    with pytest.raises(UserError, match=r"weights of the teacher .* have changed since the run started"):
        ut.pretrain(out=out, resume=True, steps=5)


def test_a_run_resumes_only_with_the_same_teacher(teacher: Path, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8))
    out = tmp_path / "student"
    distil(out, [module, teacher])
    assert yaml.safe_load((out / "run.yaml").read_text())["knobs"]["teachers"] == f"module:Sequential,{teacher}"
    with pytest.raises(UserError, match=r"teachers of the run was a Python object \(module:Sequential\); pass it again"):
        ut.pretrain(IMAGES, out=out, resume=True, steps=3)
    resumed = ut.pretrain(IMAGES, out=out, resume=True, steps=3, teachers=[module, teacher])
    assert resumed.path == out
    with torch.no_grad():
        module[0].weight.add_(1)  # type: ignore[operator]
    with pytest.raises(UserError, match="weights of the teacher module:Sequential have changed since the run started"):
        ut.pretrain(IMAGES, out=out, resume=True, steps=4, teachers=[module, teacher])


def test_a_module_is_not_changed_and_not_the_student(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8))
    with pytest.raises(UserError, match="the teacher module:Sequential shares weights with the student; give a copy"):
        ut.pretrain(IMAGES, "feature_distillation", encoder=module, teachers=module, out=tmp_path / "a", steps=1, size=16)
    distil(tmp_path / "b", module)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())


def test_a_teacher_of_timm_gets_its_own_size_and_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "resnet"
    network: Any = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    timm.models.save_for_hf(network, str(folder), model_config={"pretrained_cfg": network.pretrained_cfg | {"input_size": (3, 40, 40)}})
    seen: list[View] = []

    def watched(view: View, prep: Preprocessor, other: Preprocessor) -> View:
        seen.append(adapted(view, prep, other))
        (mean, std), own = (
            [torch.tensor(values[key]).view(3, 1, 1) for key in ("mean", "std")] for values in (network.pretrained_cfg, prep.statistics)
        )
        black = adapted(View((torch.zeros(1, 3, 8, 8) - own[0]) / own[1]), prep, other).x
        torch.testing.assert_close(black, (-mean / std).expand_as(black))
        return seen[-1]

    monkeypatch.setitem(vars(IMAGE), "adapted", watched)
    distil(tmp_path / "student", folder)
    assert {view.x.shape[1:] for view in seen} == {(3, 40, 40)}


def test_teachers_that_do_not_fit_are_refused(teacher: Path, tmp_path: Path) -> None:
    grey = IMAGES[..., 0]
    with pytest.raises(UserError, match="takes images with 3 channels, the data have 1 channel; choose one for 1 channel"):
        distil(tmp_path / "a", teacher, grey)
    with pytest.raises(UserError, match="runs/none not found"):
        distil(tmp_path / "b", "runs/none")
    with pytest.raises(UserError, match="conv_small not found"):  # a name of an architecture has no weights
        distil(tmp_path / "c", "conv_small")
    with pytest.raises(UserError, match="timm/test_vit_relpos has no pretrained weights"):
        distil(tmp_path / "f", "timm/test_vit_relpos")
    with pytest.raises(UserError, match="feature_distillation needs a trained teacher"):
        ut.pretrain(IMAGES, "feature_distillation", out=tmp_path / "d", **SMALL)
    series = np.random.default_rng(0).normal(size=(24, 30, 2)).astype(np.float32)
    with pytest.raises(UserError, match="takes images, the data are series"):
        ut.pretrain(series, "feature_distillation", modality="series", teachers=teacher, out=tmp_path / "e", steps=1)
    settings = {"channels": 2, "length": 30, "missing": False}
    prep = Preprocessor(SERIES, settings, {"mean": [0.0]})
    with pytest.raises(UserError, match="was trained with another normalisation than the data have"):
        SERIES.adapted(View(torch.zeros(1)), prep, Preprocessor(SERIES, settings, {"mean": [1.0]}))


def test_a_member_of_a_combination_has_its_teachers(teacher: Path, tmp_path: Path) -> None:
    run = ut.pretrain(IMAGES, "simclr+feature_distillation:0.5", teachers=teacher, out=tmp_path / "both", **SMALL)
    assert "teachers" in yaml.safe_load((run.path / "run.yaml").read_text())
