"""Nothing that someone else may have made is run: not by reading it, not by opening its folder, not by what it names."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command import Cli
from harm import Harm
from safetensors.torch import save_file

import untaught
from untaught.config.registry import modality_named
from untaught.core import Preprocessor, UserError, View
from untaught.data.sources import open_source
from untaught.evaluation.models import open_model
from untaught.pipeline.pretrained import load_encoder
from untaught.report.samples import load_sample
from untaught.storage.run_dir import read_run
from untaught.training import checkpoint

SOURCES = sorted(Path(untaught.__file__).parent.rglob("*.py"))
LOADERS = {  # a call that can run what it reads -> the argument that forbids it
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "from_pretrained": ("trust_remote_code", False),
}
FORBIDDEN = {"eval", "exec", "compile", "__import__", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "subprocess"}
CHECKPOINTS, SAFE = "torch.distributed.checkpoint", "torch.distributed.checkpoint.state_dict"  # whose other modules read pickles


def calls(path: Path) -> list[tuple[str, dict[str, str], int]]:
    """(dotted name, keyword arguments as text, line) of every call in a file."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [(ast.unparse(node.func), {k.arg or "**": ast.unparse(k.value) for k in node.keywords}, node.lineno) for node in found]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_source_has_no_call_that_runs_what_it_reads(path: Path) -> None:
    for name, keywords, line in calls(path):
        where = f"{path}:{line} {name}"
        assert name not in FORBIDDEN, where
        if name == "yaml.load":
            assert path.name == "safe_load.py", where  # with a loader derived from the safe one
        for loader, (argument, value) in LOADERS.items():
            if name == loader or name.endswith(f".{loader}"):
                assert keywords.get(argument) == str(value) or keywords.get("**") == "NO_CODE", where
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not MODULES & {name.split(".")[0] for name in names}, f"{path} imports {names}"
        assert not [name for name in names if name.startswith(CHECKPOINTS) and name != SAFE], f"{path} imports {names}"


def test_the_test_above_would_see_them(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import torch\ntorch.load(p)\neval(x)\nModel.from_pretrained(name)\n")
    assert [name for name, _, _ in calls(bad)] == ["torch.load", "eval", "Model.from_pretrained"]


# -------------------------------------------------------------------------------------------------------- real payloads


def test_the_payload_and_the_guard_work(harm: Harm, no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's client tries again and again
    pickle.loads(pickle.dumps(harm))
    assert harm.mark.exists()
    with pytest.raises(Exception, match=r"evil|Hub"):
        timm.create_model("hf-hub:evil/model")
    assert no_network


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_pickled_arrays(ending: str, tmp_path: Path, harm: Harm) -> None:
    path = tmp_path / f"data.{ending}"
    evil = np.array([harm], dtype=object)
    np.save(path, evil, allow_pickle=True) if ending == "npy" else np.savez(path, images=evil)
    with pytest.raises(UserError, match="without pickled objects"):
        open_source(path, modality_named("image"))
    assert not harm.mark.exists()


def test_a_pickled_sample_of_a_run(tmp_path: Path, harm: Harm) -> None:
    np.savez(tmp_path / "sample.npz", name=np.array([harm], dtype=object))
    assert load_sample(tmp_path) is None
    assert not harm.mark.exists()


def test_a_checkpoint_with_a_right_checksum(tmp_path: Path, harm: Harm) -> None:
    place = checkpoint.save(tmp_path, 1, {"place": {"step": 1}})
    torch.save({"method": harm}, place / "state.pt")
    digest = hashlib.sha256((place / "state.pt").read_bytes()).hexdigest()
    (place / "manifest.json").write_text(json.dumps({"files": {"state.pt": digest}}))
    said: list[str] = []
    with pytest.raises(UserError, match=r"no intact checkpoint in"):
        checkpoint.load(tmp_path, said.append)
    assert said == [f"checkpoint {place} is damaged: it holds more than weights and numbers"]
    assert not harm.mark.exists()


@pytest.mark.parametrize("evil", ["metadata", "part", "torch part", "another part"])
def test_a_checkpoint_in_parts_with_right_checksums(
    evil: str, in_parts: Path, tmp_path: Path, harm: Harm, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
    run = shutil.copytree(in_parts, tmp_path / "run")
    place = run / "checkpoints" / "step-2"
    (part,) = place.glob("part-*")
    if evil == "metadata":  # where torch.distributed.checkpoint has its own, and would read it
        (place / ".metadata").write_bytes(pickle.dumps(harm))
        (place / "__0_0.distcp").write_bytes(pickle.dumps(harm))
        part.unlink()
    elif evil == "torch part":
        torch.save({"method": harm}, part)
    else:
        (part if evil == "part" else part.with_name("part-00001.safetensors")).write_bytes(pickle.dumps(harm))
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir() if path.name != "manifest.json"}
    manifest = json.loads((place / "manifest.json").read_text())
    (place / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    with pytest.raises(UserError, match="belong to another run or another version of untaught; start again with another --out"):
        untaught.pretrain(out=run, resume=True)
    assert not harm.mark.exists()


def test_yaml_that_builds_objects(tmp_path: Path, harm: Harm) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"data: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{harm.mark}]]\n")
    with pytest.raises(UserError, match=r"run.yaml can't be read: could not determine a constructor"):
        read_run(path)
    assert not harm.mark.exists()


def test_yaml_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="it has an alias"):
        read_run(path)
    path.write_text("[" * 5000)
    with pytest.raises(UserError, match=r"can't be read: (it is nested too deeply|while parsing)"):
        read_run(path)
    path.write_text("#" * (2 << 20))
    with pytest.raises(UserError, match="at most 1,048,576 are allowed"):
        read_run(path)


def tampered(trained: Path, place: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The run's encoder with another config.json."""
    folder = shutil.copytree(trained / "encoder", place / "encoder")
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


NAMES = {
    "a module to import": "os:system",
    "a repository": "timm/hf-hub:evil/model",
    "a folder elsewhere": "timm/local-dir:/tmp",
    "a module path": "untaught.cli:main",
    "a model of transformers": "transformers/evil/model",
    "a path": "../../evil",
    "nothing": "",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_encoder_folder_that_names_something_else(name: str, trained: Path, tmp_path: Path, no_network: list[str]) -> None:
    folder = tampered(trained, tmp_path, lambda config: config.update(encoder=name))
    with pytest.raises(UserError, match=r"encoder can't be loaded: .*(points out of the folder|unknown encoder)"):
        load_encoder(folder)
    assert no_network == []


@pytest.mark.parametrize(
    "knobs",
    [
        {"weights": "pretrained"},
        {"weights": "/etc/passwd"},
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained_cfg": {"url": "http://evil/x.pth"}},
        {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
        {"cache_dir": "/tmp"},
    ],
)
def test_an_encoder_folder_whose_knobs_read_or_fetch(knobs: dict[str, Any], trained: Path, tmp_path: Path, no_network: list[str]) -> None:
    folder = tampered(trained, tmp_path, lambda config: config.update(encoder="timm/resnet18", encoder_knobs=knobs))
    with pytest.raises(UserError, match="points out of the folder"):
        load_encoder(folder)
    assert no_network == []


def test_an_encoder_folder_that_asks_for_all_memory(trained: Path, tmp_path: Path) -> None:
    folder = tampered(trained, tmp_path, lambda config: config.update(encoder_knobs={"width": 60_000}))  # some TB
    with pytest.raises(UserError, match=r"can't be loaded: the encoder conv_small needs .* TB to train, but"):
        load_encoder(folder)


def test_weights_that_are_a_pickle_are_not_looked_at(trained: Path, tmp_path: Path, harm: Harm) -> None:
    folder = tampered(trained, tmp_path, lambda config: None)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": harm}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no encoder \(config.json and model.safetensors\)"):
        load_encoder(folder)
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    with pytest.raises(UserError, match="can't be loaded"):
        load_encoder(folder)
    assert not harm.mark.exists()


# ----------------------------------------------------------------------------------- folders of timm and transformers

SETTINGS = {"size": 32, "side": 32, "channels": 3, "bits": 8, "preset": "small"}
PREP = Preprocessor(modality_named("image"), SETTINGS, {"mean": [0.5] * 3, "std": [0.2] * 3})
DATA: Any = SimpleNamespace(prep=PREP)


@pytest.mark.parametrize("evil", ["pickle", "url", "hub", "architecture"])
def test_a_folder_as_timm_saves_it(evil: str, tmp_path: Path, harm: Harm, no_network: list[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    own: dict[str, Any] = {"input_size": [3, 32, 32], "url": "http://evil/x.pth", "hf_hub_id": "evil/model", "source": "url"}
    config = {"architecture": "resnet10t", "num_classes": 0, "pretrained_cfg": own}
    if evil == "pickle":
        torch.save({"conv1.weight": harm}, folder / "pytorch_model.bin")
    if evil == "architecture":
        config["architecture"] = "hf-hub:evil/model"
        save_file({}, folder / "model.safetensors")
    if evil == "hub":
        own["source"] = "hf-hub"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="timm"):
        open_model(folder, lambda: PREP.modality).build(DATA)
    assert not harm.mark.exists()
    assert no_network == []


def test_an_encoder_that_began_in_a_folder_brings_its_architecture(tmp_path: Path, no_network: list[str]) -> None:
    from untaught.config.registry import build_encoder
    from untaught.pipeline.pretrained import save_encoder

    began = tmp_path / "began"
    began.mkdir()
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    (began / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224", "model_args": args, "pretrained_cfg": {}}))
    save_file(model.state_dict(), began / "model.safetensors")
    encoder = build_encoder(f"timm/local-dir:{began}", {"channels": 3, "size": 32}, {}).eval()
    config = {"encoder": f"timm/local-dir:{began}", "encoder_knobs": {}, "view": "whole"}
    save_encoder(encoder, tmp_path / "run" / "encoder", config, PREP)
    shutil.rmtree(began)
    again, said, _ = load_encoder(tmp_path / "run" / "encoder")
    assert said["encoder"] == "timm/vit_tiny_patch16_224"
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(View(x)), encoder(View(x)))
    assert no_network == []


@pytest.mark.parametrize("evil", ["code", "unknown", "pickle", "backbone"])
def test_a_folder_of_transformers(evil: str, tmp_path: Path, harm: Harm, no_network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked whether to run code"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 32}))
    (folder / "modeling_evil.py").write_text(f"from pathlib import Path\nPath({str(harm.mark)!r}).touch()\nclass Evil: pass\n")
    config: dict[str, Any] = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    if evil in ("code", "unknown"):
        config["auto_map"] = {"AutoConfig": "modeling_evil.Evil", "AutoModel": "modeling_evil.Evil"}
    if evil == "unknown":
        config["model_type"] = "evil"
    if evil == "backbone":
        config = {"model_type": "upernet", "backbone": "evil/model", "use_pretrained_backbone": True}
    torch.save({"embeddings.cls_token": harm}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="transformers"):
        open_model(folder, lambda: PREP.modality).build(DATA)
    assert not harm.mark.exists()
    assert no_network == []


def test_a_picture_that_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript."""
    import PIL.EpsImagePlugin as eps

    monkeypatch.setattr(eps, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(" + str(tmp_path).encode() + b") deletefile\n%%EOF\n"
    )
    for value in (path, path.read_bytes()):
        with pytest.raises((ValueError, OSError), match="not in a supported format"):
            PREP.decode({"image": value})


def test_a_run_that_was_trained_on_the_hub_fetches_nothing_unasked(trained: Path, tmp_path: Path, no_network: list[str]) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    said = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(said.replace("data: builtin:digits", "data: hf:evil/data"))
    (run / "sample.npz").unlink()
    with pytest.raises(UserError, match="which is downloaded only on request: --data hf:evil/data"):
        untaught.evaluate(run)
    with pytest.raises(UserError, match="which is downloaded only on request"):
        untaught.load(run).export()
    assert no_network == []
