"""Exported encoders load where this library can't be imported, and give the same vectors."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from untaught.config.registry import build_encoder, modality_named
from untaught.core import Preprocessor, UserError, View
from untaught.encoders.offline import offline
from untaught.export import formats
from untaught.export.formats import export
from untaught.export.parity import check_parity, real_input
from untaught.pipeline.pretrained import load_encoder, save_encoder, save_network

ALONE = """
import json, sys
sys.modules["untaught"] = None  # any import of it fails
import numpy as np, torch
torch.set_num_threads(1)
given = {}
for kind, folder, pixels in json.loads(sys.argv[1]):
    x = torch.from_numpy(np.load(pixels))
    if kind == "timm":
        import timm
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        config = timm.data.resolve_data_config(model=model)
        assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(x).shape == (len(x), 3)
        print(json.dumps({key: config[key] for key in ("input_size", "mean", "std", "crop_pct", "interpolation")}))
    elif kind == "torch":
        model = torch.export.load(f"{folder}/model.pt2").module()
    else:
        import onnxruntime
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
        model = lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    with torch.no_grad():
        np.save(f"{folder}/{kind}.npy", torch.cat([model(x[:1]), model(x[1:])]).numpy())
"""


def pictures(path: Path, channels: int, side: int = 24) -> Path:
    x = np.random.default_rng(0).integers(0, 256, (7, side, side, channels), dtype=np.uint8)
    np.save(path, x)
    return path


def encoder_folder(path: Path, name: str, channels: int, size: int, **knobs: Any) -> Path:
    """As a run keeps it, with running statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    layout = {"size": size, "side": size, "channels": channels, "bits": 8, "preset": "small"}
    statistics = {"mean": [0.1 * (i + 1) for i in range(channels)], "std": [0.2 + 0.1 * i for i in range(channels)]}
    prep = Preprocessor(modality_named("image"), layout, statistics)
    encoder = build_encoder(name, prep.encoder_arguments, knobs)
    with torch.no_grad():
        for _ in range(3):
            encoder(View(torch.randn(8, channels, size, size)))
    save_encoder(encoder, path, {"untaught": "0", "method": "simclr", "encoder": name, "encoder_knobs": knobs, "view": "whole"}, prep)
    return path


CASES = {  # encoder, channels, size, knobs, format
    "resnet, grey": ("timm/resnet10t", 1, 32, {"stem": "original"}, "timm"),
    "mobilenet, four channels": ("timm/mobilenetv3_small_050", 4, 32, {"stem": "original"}, "timm"),
    "vit, size of its own": ("vit_mini", 2, 24, {"depth": 1, "class_token": True, "global_pool": "token"}, "timm"),
    "conv_small": ("conv_small", 3, 17, {"width": 8}, "torch"),
    "resnet with our stem": ("timm/resnet10t", 3, 16, {"stem": "auto"}, "torch"),
    "vit, onnx": ("vit_mini", 3, 16, {"depth": 1}, "onnx"),
    "conv_small, onnx": ("conv_small", 1, 16, {"width": 8}, "onnx"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Every case exported, then loaded in one process without this library: its folder, and what that process said."""
    pytest.importorskip("onnxruntime", reason="pip install untaught[onnx]")
    place, jobs, folders = tmp_path_factory.mktemp("exported"), [], {}
    for number, (case, (name, channels, size, knobs, kind)) in enumerate(CASES.items()):
        folder = encoder_folder(place / str(number), name, channels, size, **knobs)
        said = export(folder, kind, str(pictures(place / f"{number}.npy", channels)))
        assert said.format == kind
        assert said.path.exists()
        assert said.deviation < 1e-3
        assert "largest difference" in str(said)
        x = place / f"{number}.x.npy"
        np.save(x, np.random.default_rng(1).normal(size=(5, channels, size, size)).astype(np.float32))
        folders[case] = folder, x
        jobs.append((kind, str(folder), str(x)))
    done = subprocess.run([sys.executable, "-c", ALONE, json.dumps(jobs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    return {case: (folders[case], json.loads(next(lines)) if CASES[case][-1] == "timm" else {}) for case in CASES}  # type: ignore[misc]


@pytest.mark.parametrize("case", CASES)
def test_loads_without_this_library(case: str, exported: dict[str, Any]) -> None:
    (folder, x), said = exported[case]
    name, channels, size, _, kind = CASES[case]
    encoder, config, _ = load_encoder(folder)
    with torch.no_grad():
        own = encoder(View(torch.from_numpy(np.load(x)))).numpy()
    assert own.std() > 1e-3
    np.testing.assert_allclose(np.load(folder / f"{kind}.npy"), own, atol=1e-3 if kind == "onnx" else 1e-4, rtol=0)
    assert config["preprocessing"]["mean"] == config["statistics"]["mean"], name
    if kind == "timm":
        assert said["input_size"] == [channels, size, size]
        assert said["mean"] == config["statistics"]["mean"]
        assert (said["crop_pct"], said["interpolation"]) == (1.0, "bilinear")


def test_the_default_is_timm_where_timm_can(tmp_path: Path) -> None:
    data = str(pictures(tmp_path / "x.npy", 1))
    folder = encoder_folder(tmp_path / "vit", "vit_mini", 1, 16, depth=1)
    assert "timm.create_model" in export(folder, data=data).load
    with pytest.raises(UserError, match=r"timm can't build conv_small .* --to torch"):
        export(encoder_folder(tmp_path / "conv", "conv_small", 1, 16, width=8), "timm", data)


def test_wrong_requests(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "conv", "conv_small", 1, 16, width=8)
    with pytest.raises(UserError, match="--to tflite: unknown format; known: timm, transformers, torch, onnx"):
        export(folder, "tflite")
    with pytest.raises(UserError, match="has no samples or data to check the export on; give some with --data"):
        export(folder)
    with pytest.raises(UserError, match="not found"):
        export(folder, data=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="does not exist"):
        export(tmp_path / "nowhere")
    assert not list(folder.glob("*.pt2"))


def test_weights_that_changed_are_found(tmp_path: Path) -> None:
    """timm would load foreign weights of the right shapes without a word."""
    encoder = load_encoder(encoder_folder(tmp_path / "vit", "vit_mini", 1, 16, depth=1)).network
    x = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        own = encoder(View(x))
    assert check_parity("it", encoder, own, (x,), 1e-4) == 0.0
    own[2, 3] += 1e-2
    with pytest.raises(UserError, match=r"it differs from the encoder by 7.9e-03 \(limit 1e-04\)"):
        check_parity("it", encoder, own, (x,), 1e-4)
    own[0, 0] = torch.nan
    with pytest.raises(UserError, match="differs from the encoder by nan"):
        check_parity("it", encoder, own, (x,), 1e-4)
    with pytest.raises(UserError, match=r"returns shape \(3, 192\), the encoder \(4, 192\)"):
        check_parity("it", encoder, own[:3], (x,), 1e-4)


def test_arguments_that_timm_could_not_read_back_are_not_written(tmp_path: Path) -> None:
    encoder = build_encoder("timm/resnet10t", {"channels": 1, "size": 32}, {"stem": "original", "norm_layer": torch.nn.BatchNorm2d})
    assert encoder.timm_args is None  # type: ignore[union-attr]


def test_padding_is_not_averaged(tmp_path: Path) -> None:
    """transformers' own model gives a vector a token: their mean over those that are valid is the encoder's vector."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    given = {"vocabulary": 20, "length": 16, "special": {"pad": 0, "cls": 1, "sep": 2}}
    encoder = build_encoder("bert", given, {"width": 16, "depth": 1, "heads": 2}).eval()
    save_network(encoder.model, tmp_path / "encoder", encoder.foreign_config(), {})  # type: ignore[operator,arg-type]
    ids = torch.randint(3, 20, (3, 12))
    valid = torch.arange(12) < torch.tensor([[12], [5], [1]])
    config = {"model_type": "bert", "encoder": "bert"}
    assert formats._transformers(encoder, config, tmp_path / "encoder", (ids.where(valid, 0), valid)).deviation < 1e-4


@pytest.mark.parametrize("name", ["conv_series", "patch_series"])
@pytest.mark.parametrize(("lengths", "patch"), [((26, 3, 17), 4), ((26, 3, 17), 1), ((3, 2, 1), 4)])
def test_series_of_any_length_are_exported(name: str, lengths: tuple[int, ...], patch: int, tmp_path: Path) -> None:
    knobs = {"width": 8, "heads": 2, "depth": 1, "patch": patch} if name == "patch_series" else {"width": 8, "hidden": 4, "depth": 1}
    encoder = build_encoder(name, {"channels": 2, "length": 26}, knobs).eval()
    x = torch.randn(3, max(lengths), 2)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    with torch.no_grad():
        said = formats._torch(encoder, {}, tmp_path, formats._lengthened(encoder, (x, valid)))
        program = torch.export.load(said.path).module()
        for steps in (5, 40):
            x, valid = torch.randn(4, steps, 2), torch.rand(4, steps) < torch.arange(1, 0, -0.3).unsqueeze(1)
            valid[:, 0] = True
            torch.testing.assert_close(program(x, valid), encoder(View(x, valid)))


@pytest.mark.parametrize("wrong", [1, 3])
def test_a_program_that_is_right_for_one_size_of_batch_alone_is_refused(
    wrong: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parity is measured on a single sample as well: a program may have been traced for more than one."""
    encoder, config, _ = load_encoder(encoder_folder(tmp_path / "conv", "conv_small", 1, 16, width=4))

    class Program:
        def module(self) -> Any:
            return lambda x: encoder(View(x)) + (len(x) == wrong)

    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch.export, "save", lambda *_: None)
    monkeypatch.setattr(torch.export, "load", lambda _: Program())
    with torch.no_grad(), pytest.raises(UserError, match="differs from the encoder"):
        formats._torch(encoder, config, tmp_path / "conv", (torch.randn(3, 1, 16, 16),))


def test_it_is_checked_on_the_column_that_is_named(tmp_path: Path) -> None:
    layout = {"size": 8, "side": 8, "channels": 3, "bits": 8, "preset": "small"}
    prep = Preprocessor(modality_named("image"), layout, {"mean": [0.0] * 3, "std": [1.0] * 3})
    pixels = np.ones((4, 8, 8, 3), np.float32)
    (x,) = real_input(tmp_path, {"view": "whole"}, prep, {"image": pixels * 0.25, "other": pixels * 0.75}, {"image": "other"})
    torch.testing.assert_close(x, torch.full((4, 3, 8, 8), 0.75), atol=0.01, rtol=0)


def test_one_model_is_traced_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    inside = threading.Semaphore(8)

    def slow(*_: Any) -> str:
        with inside:
            together.append(8 - inside._value)
            time.sleep(0.05)
        return ""

    monkeypatch.setitem(formats.FORMATS, "torch", slow)
    monkeypatch.setattr(formats, "load_encoder", lambda path: (torch.nn.Identity(), {"encoder": "x"}, None))
    monkeypatch.setattr(formats, "real_input", lambda *_: (torch.zeros(2, 3),))
    threads = [threading.Thread(target=export, args=(tmp_path, "torch")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1, 1, 1]


def test_the_hub_is_asked_again_only_when_the_last_thread_is_out() -> None:
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    first, second = offline(), offline()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE is True
    second.__exit__(None, None, None)
    assert constants.HF_HUB_OFFLINE is before


@pytest.mark.parametrize("kind", ["transformers", "torch"])
def test_encoders_of_waveforms_are_exported(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    encoder: Any = build_encoder("wav2vec2", {"rate": 8000}, {"width": 16, "depth": 1, "heads": 2, "channels": 4}).eval()
    save_network(encoder.model, tmp_path, encoder.foreign_config(), {})  # type: ignore[arg-type]
    x = torch.randn(3, 1500)
    valid = torch.arange(1500) < torch.tensor([[1500], [700], [90]])
    with torch.no_grad():
        config = {"model_type": "wav2vec2", "encoder": "wav2vec2"}
        said = formats.FORMATS[kind](encoder, config, tmp_path, (torch.where(valid, x, 0.0), valid))
        assert said.deviation < 1e-4
        if kind == "torch":
            program = torch.export.load(said.path).module()
            for steps in (360, 4000):
                x, valid = torch.randn(4, steps), torch.arange(steps) < torch.tensor([[steps], [steps - 7], [200], [1]])
                torch.testing.assert_close(program(x, valid), encoder(View(x, valid)), atol=1e-5, rtol=1e-4)
