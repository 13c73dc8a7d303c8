"""Whatever a file holds, reading it gives its content or one line: no other fault, no hang, no memory without end."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import resource
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from untaught.commands.reproduce import Target
from untaught.commands.request import PretrainArguments, _as_before
from untaught.config.registry import modality_named
from untaught.config.train_config import TrainConfig
from untaught.core import Preprocessor, UserError
from untaught.data.sources import open_source
from untaught.data.store import _reopen, pack
from untaught.evaluation.evaluator import merge_rows, read_rows
from untaught.inference.embed import Embedder
from untaught.inference.pretext import Pretext
from untaught.pipeline.pretrained import load_encoder
from untaught.report import write as write_report
from untaught.report.samples import load_sample
from untaught.storage.run_dir import data_of, read_run, seed_of
from untaught.training import checkpoint

GIGABYTES = 6  # of address space beyond what is taken already


def fuzz(examples: int) -> Any:
    fixtures = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    quick = (Phase.explicit, Phase.generate)
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, phases=quick, suppress_health_check=fixtures)


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """What asks for more memory than this gets an error."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (GIGABYTES << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 7, 10**5, 10**12, 10**400, 0.5, -1e308, float("nan"), float("inf")]),
    st.sampled_from(["", "x", "none", "../../etc/passwd", "/dev/zero", "\x1b[31m\n", "a" * 3000, "timm/resnet18", "whole", "1e5"]),
    st.sampled_from([[], {}, [1, 2, 3], [[1], "x"], {"a": {"b": [None]}}, {"1": 2}]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything inside a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(document: Any, data: st.DataObject) -> Any:
    """The document with one to three places removed, or holding something odd."""
    document = json.loads(json.dumps(document))
    for _ in range(data.draw(st.integers(1, 3))):
        known = list(places(document))
        if not known:
            break
        *way, last = data.draw(st.sampled_from(known))
        inner = document
        for key in way:
            inner = inner[key]
        if data.draw(st.integers(0, 3)) == 0:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(data.draw(ODD))
    return document


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """The bytes with some of them changed, and perhaps cut short or grown."""
    raw = bytearray(content)
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(raw)))
    return bytes(raw[:end]) if data.draw(st.booleans()) else bytes(raw) + bytes(raw[end:])


def spoilt(content: bytes, data: st.DataObject) -> bytes:
    """Of a JSON file: another document, or damaged bytes."""
    if data.draw(st.integers(0, 2)):
        return json.dumps(changed(json.loads(content), data)).encode()
    return damaged(content, data)


def one_line(work: Callable[[], Any]) -> None:
    """Only a UserError may come out."""
    with suppress(UserError):
        work()


# --------------------------------------------------------------------------------------------------------- run folders


@fuzz(60)
@given(data=st.data())
def test_run_yaml(trained: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "run.yaml"
    whole = (trained / "run.yaml").read_bytes()
    path.write_bytes(yaml.safe_dump(changed(yaml.safe_load(whole), data)).encode() if data.draw(st.booleans()) else damaged(whole, data))

    def use() -> None:
        run = read_run(path)
        seed_of(run)
        _as_before(PretrainArguments(None, out=tmp_path), run)
        data_of(run, tmp_path)

    one_line(use)
    one_line(lambda: write_report(tmp_path))


@fuzz(40)
@given(data=st.data())
def test_a_report_of_a_run_that_was_tampered_with(trained: Path, tmp_path: Path, data: st.DataObject) -> None:
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for name in ("run.yaml", "metrics.jsonl", "evaluation.json", "sample.npz", "views.png"):
        shutil.copy(trained / name, run)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed(rows, data)))
    (run / "evaluation.json").write_bytes(spoilt((trained / "evaluation.json").read_bytes(), data))
    if data.draw(st.booleans()):
        (run / "views.png").write_bytes(damaged((trained / "views.png").read_bytes(), data))
    one_line(lambda: write_report(run))
    one_line(lambda: read_rows(run / "evaluation.json"))
    one_line(lambda: merge_rows(run / "evaluation.json", []))


@fuzz(60)
@given(data=st.data())
def test_sample_npz(trained: Path, tmp_path: Path, data: st.DataObject) -> None:
    with np.load(trained / "sample.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(arrays)))
        other = data.draw(
            st.sampled_from([np.zeros(0), np.zeros((3, 2)), np.array("x"), np.full(7, np.nan), np.zeros((2, 900, 900, 3), np.uint8)])
        )
        np.savez_compressed(tmp_path / "sample.npz", **{**arrays, name: other})
    else:
        (tmp_path / "sample.npz").write_bytes(damaged((trained / "sample.npz").read_bytes(), data))
    shutil.copy(trained / "run.yaml", tmp_path)
    load_sample(tmp_path)
    one_line(lambda: write_report(tmp_path))


def test_a_sample_that_unpacks_to_gigabytes_is_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sample.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("name.npy", "w") as member:
        for _ in range(600):
            member.write(bytes(1 << 20))
    assert load_sample(tmp_path) is None


@fuzz(60)
@given(data=st.data())
def test_checkpoints(tmp_path: Path, data: st.DataObject) -> None:
    place = checkpoint.save(tmp_path, 1, {"method": {"a": torch.zeros(3)}, "optimizer": {}, "place": {"step": 1, "total": None}})
    for name in data.draw(st.sampled_from([["state.pt"], ["manifest.json"], ["state.pt", "manifest.json"]])):
        (place / name).write_bytes(damaged((place / name).read_bytes(), data))
    if data.draw(st.booleans()):  # as someone would who knows how the checksum is made
        digest = hashlib.sha256((place / "state.pt").read_bytes()).hexdigest()
        (place / "manifest.json").write_text(json.dumps({"sha256": digest}))
    one_line(lambda: checkpoint.load(tmp_path, lambda line: None))


STATE: dict[str, Any] = {"place": {"step": 1, "epoch": 0, "step_in_epoch": 1, "entered": 0, "total": 1, "seconds": 1.0}}


@fuzz(40)
@given(data=st.data())
def test_checkpoints_of_another_run(tmp_path: Path, data: st.DataObject) -> None:
    from untaught.training.trainer import Clock, Trainer

    torch.manual_seed(0)
    network = torch.nn.Linear(2, 2)
    run: Any = Trainer.__new__(Trainer)
    run.method, run.folder, run.train_config, run.clock = network, tmp_path, TrainConfig(steps=1), Clock()
    run.train_step, run.events = SimpleNamespace(optimizer=torch.optim.SGD(network.parameters(), 0.1)), SimpleNamespace(evaluations=4)
    weights: dict[str, Any] = {
        name: data.draw(st.sampled_from([value, torch.zeros(7), None, 3])) for name, value in network.state_dict().items()
    }
    optimizer = data.draw(st.sampled_from([run.train_step.optimizer.state_dict(), {}, [], {"state": {}, "param_groups": [{}]}]))
    state: Any = data.draw(st.sampled_from([{"method": weights, "optimizer": optimizer, **changed(STATE, data)}, {}, [], None]))
    one_line(lambda: run.restore(state))


@fuzz(60)
@given(data=st.data())
def test_checkpoints_in_parts(tmp_path: Path, data: st.DataObject) -> None:
    from untaught.distributed.process_group import ProcessGroup
    from untaught.training import sharded_checkpoint as shards

    network, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, data.draw(st.integers(1, 3)))
    optimizer = torch.optim.AdamW(network.parameters())
    tensors = {f"method.{name}": x for name, x in other.state_dict().items()} | {"optimizer.weight.exp_avg": torch.zeros(2, 2)}
    (tmp_path / "part-00000.safetensors").write_bytes(damaged(save(tensors), data))
    one_line(lambda: shards.load(tmp_path, network, optimizer, ProcessGroup()))


# ------------------------------------------------------------------------------------------------------ encoder folders


@fuzz(40)
@given(data=st.data())
def test_encoder_folders(trained: Path, tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(trained / "encoder" / name, folder)
    if data.draw(st.integers(0, 3)):
        (folder / "config.json").write_bytes(spoilt((folder / "config.json").read_bytes(), data))
    else:
        (folder / "model.safetensors").write_bytes(damaged((folder / "model.safetensors").read_bytes(), data))

    def use() -> None:
        for _, _, vectors in Embedder(load_encoder(folder), np.zeros((2, 9, 9, 3), np.uint8)):
            assert len(vectors) == 2

    one_line(use)


@fuzz(60)
@given(data=st.data())
def test_heads_of_methods(with_heads: Path, tmp_path: Path, data: st.DataObject) -> None:
    for name in ("encoder", "heads"):
        shutil.copytree(with_heads / name, tmp_path / name, dirs_exist_ok=True)
    folder = tmp_path / "heads"
    if data.draw(st.integers(0, 3)):
        (folder / "config.json").write_bytes(spoilt((folder / "config.json").read_bytes(), data))
    else:
        (folder / "model.safetensors").write_bytes(damaged((folder / "model.safetensors").read_bytes(), data))

    def use() -> None:
        for _, _, answers in Pretext(tmp_path, np.zeros((2, 9, 9, 3), np.uint8)):
            assert len(answers.columns["right"]) == 2

    one_line(use)


# --------------------------------------------------------------------------------------------------------------- stores


@fuzz(60)
@given(data=st.data())
def test_manifests_of_stores(tmp_path: Path, data: st.DataObject) -> None:
    image = modality_named("image")
    layout = {"side": 8, "size": 8, "channels": 3, "bits": 8, "preset": "small"}
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), dtype=np.uint8)
    store = pack(open_source((pixels, np.arange(6) % 2), image), Preprocessor(image, layout), cache=tmp_path / "cache")
    folder = shutil.copytree(store.folder, tmp_path / "copy", dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["manifest.json", "manifest.json", "row.name.npy", "pixels.npy", "row.label.npy", "row.part.npy"]))
    content = (store.folder / name).read_bytes()
    (folder / name).write_bytes(spoilt(content, data) if name == "manifest.json" else damaged(content, data))
    if (again := _reopen(folder)) is not None:
        assert len(again) == 6
        again.parts(0)
        again.names(np.arange(6))
        for column in again.gather(np.arange(6)).values():
            assert len(column) == 6


# ------------------------------------------------------------------------------------------------- recipes and listings

RECIPE = {
    "data": "builtin:digits",
    "method": "simclr",
    "knobs": {"steps": 2},
    "scores": [{"features": "encoder", "probe": "knn20", "labels": "all", "metric": "accuracy", "low": 0.1, "high": 0.9}],
}


@fuzz(60)
@given(data=st.data())
def test_recipes(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "recipe.yaml"
    content = yaml.safe_dump(changed(RECIPE, data)).encode()
    path.write_bytes(content if data.draw(st.booleans()) else damaged(content, data))
    one_line(lambda: Target.read(path))


@fuzz(60)
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet"])
@given(data=st.data())
def test_listings(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    import pandas

    table = pandas.DataFrame({"file_name": [f"{i}.png" for i in range(6)], "label": ["a", "²"] * 3, "split": ["train", "test"] * 3})
    buffer = io.BytesIO()
    if kind == "csv":
        table.to_csv(buffer, index=False)
    elif kind == "parquet":
        table.to_parquet(buffer)
    else:
        table.to_json(buffer, orient="records", lines=kind == "jsonl")
    path = tmp_path / f"list.{kind}"
    path.write_bytes(damaged(buffer.getvalue(), data))

    def use() -> None:
        source = open_source(path, modality_named("image"), label=data.draw(st.sampled_from([None, "label"])))
        for part in source.parts.values():
            assert all("name" in record for record in part)

    one_line(use)


# ------------------------------------------------------------------------------------------------------------- archives


@cache
def archive(kind: str) -> bytes:
    """The same bytes whenever it is made."""
    buffer = io.BytesIO()
    names = ("cat/a.png", "dog/b.png", f"dog/{'long' * 60}.png")
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in names:
                packed.writestr(zipfile.ZipInfo(name), bytes(range(256)), zipfile.ZIP_DEFLATED)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 256
            archive.addfile(member, io.BytesIO(bytes(range(256))))
    return buffer.getvalue() if kind == "tar" else gzip.compress(buffer.getvalue(), mtime=0)


@fuzz(60)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@given(data=st.data())
def test_archives(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / f"archive.{kind}"
    path.write_bytes(damaged(archive(kind), data))

    def use() -> None:
        source = open_source(path, modality_named("image"))
        for part in source.parts.values():
            assert all(isinstance(record["image"], (bytes, Exception)) for record in part)

    one_line(use)
