"""A folder of somebody else: no link leads outside it, nothing in it waits, has no end or is larger than it may be, no number is none."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import untaught as ut
from untaught.config.train_config import TrainConfig
from untaught.core import UserError
from untaught.evaluation.evaluator import read_rows
from untaught.inference.predict import load_model
from untaught.pipeline.pretrained import encoder_folder, load_encoder
from untaught.report import write as write_report
from untaught.report.samples import DECODED_ROWS as ROWS
from untaught.report.samples import load_sample
from untaught.storage.atomic import replacing, write_text
from untaught.storage.run_dir import Folder
from untaught.storage.safe_load import read_json, read_yaml
from untaught.storage.safe_open import checked_folder, open_file, read_file
from untaught.training import checkpoint, metrics
from untaught.training.metrics import LONGEST, Metrics, read_metrics
from untaught.training.trainer import Clock, Trainer


def spoil(path: Path, kind: str) -> None:
    """Something that is no file of the folder, in the place of one."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "link":
        elsewhere = path.parent.parent.parent / f"elsewhere-{path.name}"
        elsewhere.write_text("{}")
        path.symlink_to(elsewhere)
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 41)


SPOILT = ("pipe", "folder", "endless", "link", "loop", "vast")


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "deep" / "run")


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("name", ["run.yaml", "metrics.jsonl", "evaluation.json", "sample.npz", "views.png"])
def test_a_report_passes_over_what_is_no_file_of_the_run(name: str, kind: str, copy: Path) -> None:
    spoil(copy / name, kind)
    page = write_report(copy).read_text()
    assert ("can&#39;t be read" in page or "leads outside" in page) != (name == "sample.npz")
    if name == "sample.npz":
        assert load_sample(copy) is None


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_encoder_is_of_files_of_its_folder(name: str, kind: str, copy: Path) -> None:
    spoil(copy / "encoder" / name, kind)
    with pytest.raises(UserError, match=rf"{name} (can't be read: |is a link that leads outside)|holds no encoder"):
        load_encoder(copy)


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("name", ["state.pt", "manifest.json"])
def test_a_checkpoint_is_of_files_of_its_folder(name: str, kind: str, copy: Path) -> None:
    said: list[str] = []
    spoil(copy / "checkpoints" / "step-2" / name, kind)
    assert (checkpoint.load(copy / "checkpoints", said.append) or {})["place"]["step"] == 1
    (line,) = said
    assert "step-2 is damaged" in line


def test_a_checkpoint_names_no_file_elsewhere(copy: Path) -> None:
    place = copy / "checkpoints" / "step-2"
    (place / "manifest.json").write_text(json.dumps({"files": {"../../../../../../../../../dev/zero": "0" * 64}, "place": {}}))
    said: list[str] = []
    checkpoint.load(copy / "checkpoints", said.append)
    assert said[0].endswith("its files do not match its manifest; falling back to the one before")


def test_links_that_stay_in_the_folder_and_a_folder_that_is_a_link_are_fine(copy: Path, tmp_path: Path) -> None:
    for name in ("run.yaml", "encoder/config.json"):
        (copy / name).rename(copy / f"{name}-2")
        (copy / name).symlink_to(Path(name).name + "-2")
    (copy / "encoder").rename(copy / "encoder-2")
    (copy / "encoder").symlink_to("encoder-2")
    (tmp_path / "named").symlink_to(copy)
    assert Folder(tmp_path / "named").read()["method"] == "simclr"
    load_encoder(tmp_path / "named")
    checked_folder(tmp_path / "named")


def test_folders_that_lead_out_are_refused(copy: Path, tmp_path: Path) -> None:
    for name in ("encoder", "checkpoints"):
        (copy / name).rename(tmp_path / name)
        (copy / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match="encoder is a link that leads outside"):
        encoder_folder(copy)
    with pytest.raises(UserError, match="checkpoints is a link that leads outside"):
        checkpoint.load(copy / "checkpoints", pytest.fail)
    with pytest.raises(UserError, match="checkpoints is a link that leads outside"):
        checkpoint.save(copy / "checkpoints", 3, {})
    assert not (tmp_path / "checkpoints" / "step-3").exists()
    with pytest.raises(UserError, match="leads outside"):
        checked_folder(copy)


def test_a_file_that_the_user_names_may_be_a_link_but_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipe.yaml").write_text("a: 1")
    (tmp_path / "recipes" / "mine.yaml").symlink_to(tmp_path / "recipe.yaml")
    assert read_yaml(tmp_path / "recipes" / "mine.yaml", None) == {"a": 1}
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match=r"pipe.yaml can't be read: it is a pipe, a file is needed"):
        read_yaml(tmp_path / "pipe.yaml", None)
    with pytest.raises(UserError, match="can't be read: it has more than 9 bytes"):
        read_file(Path("/proc/self/status"), 9, None)  # says that it is empty
    with pytest.raises(UserError, match="No such file"):
        open_file(tmp_path / "none", 9, tmp_path)


# --------------------------------------------------------------------------------------------------------- writing


def test_nothing_is_written_through_a_link(copy: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text('{"step": 1}\n')
    (tmp_path / "victims").mkdir()
    for name in (".lock", "metrics.jsonl", "report.html"):
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(victim)
    folder = Folder(copy)
    folder.hold(fresh=False)
    folder.release()
    Metrics(copy / "metrics.jsonl", 0).close()
    with pytest.raises(UserError, match=r"report.html already exists and was not written by untaught"):
        write_report(copy)
    write_text(copy / "report.html", "text")
    (copy / "method").symlink_to(tmp_path / "victims")
    with replacing(copy / "method") as partial:
        partial.mkdir()
    assert victim.read_text() == '{"step": 1}\n'
    assert (tmp_path / "victims").is_dir()
    assert not any((copy / name).is_symlink() for name in (".lock", "metrics.jsonl", "report.html", "method"))


def test_a_lock_that_is_a_second_name_of_another_file_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text("keep me")
    os.link(tmp_path / "victim", tmp_path / "run" / ".lock")
    folder = Folder(tmp_path / "run")
    folder.hold(fresh=False)
    assert (tmp_path / "victim").read_text() == "keep me"
    assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
    folder.release()


@pytest.mark.parametrize("name", ["encoder", "evaluation.json", "report.html", "checkpoints"])
def test_a_run_does_not_begin_where_it_would_replace_something(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"contains {name}, which a run would overwrite; choose another --out"):
        Folder(tmp_path).hold(fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "notes.txt"])
    (tmp_path / name).rmdir()
    folder = Folder(tmp_path)
    folder.hold(fresh=True)  # other files are left alone
    folder.release()


# -------------------------------------------------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: " + ":".join(["1"] * 200_000), "number that is too long"),
        ("a: 0x" + "f" * 60, "number that is too large"),
        ("a: !!set {x, y}", "it has a set"),
    ],
)
def test_yaml_holds_plain_values_of_a_size(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=fault):
        read_yaml(tmp_path / "run.yaml", tmp_path)


def test_json_of_a_depth(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 60 + "]" * 60)
    with pytest.raises(UserError, match="nested too deeply"):
        read_json(tmp_path / "a.json", tmp_path)
    (tmp_path / "a.json").write_text("[" * 30 + "]" * 30)
    read_json(tmp_path / "a.json", tmp_path)


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["statistics"].update(mean=[float("nan")]),
        lambda config: config["statistics"].update(std=[0.0]),
        lambda config: config["layout"].update(size=10**9),
        lambda config: config["layout"].update(side=float("inf")),
        lambda config: config.update(encoder_knobs={"width": float("inf")}),
    ],
)
def test_numbers_of_an_encoder_are_checked(change: Callable[[dict[str, Any]], Any], copy: Path) -> None:
    edited(copy / "encoder", change)
    with pytest.raises(UserError, match="encoder can't be loaded: "):
        load_encoder(copy)


def fine_tuned(copy: Path, **facts: Any) -> Path:
    """The run's encoder with a head of its own, as finetune keeps it."""
    encoder, config, _ = load_encoder(copy)
    from untaught.downstream.network import Network
    from untaught.pipeline.pretrained import save_network

    torch.manual_seed(0)
    outputs = 3 if facts["task"] == "classify" else 1
    save_network(Network(encoder, torch.nn.Linear(encoder.width, outputs)), copy / "finetuned", {**config, **facts})
    return copy / "finetuned"


CLASSIFY: dict[str, Any] = {"task": "classify", "classes": ["a", "b", "c"], "temperature": 1.5}
REGRESS: dict[str, Any] = {"task": "regress", "mean": 1.0, "std": 2.0}


def test_a_model_with_facts_that_can_be_is_loaded(copy: Path) -> None:
    for facts in (CLASSIFY, REGRESS):
        config = load_model(fine_tuned(copy, **facts)).config
        assert {key: config[key] for key in facts} == facts


@pytest.mark.parametrize(
    "facts",
    [
        *({**CLASSIFY, "temperature": value} for value in (0, -1, 1e-9, 1e9, float("nan"), float("inf"), "x", None, True, [1.0])),
        *({**CLASSIFY, "classes": value} for value in ([], "abc", [1, 2, 3], None)),
        *({**REGRESS, "std": value} for value in (0, -1, float("nan"), "x", None)),
        *({**REGRESS, "mean": value} for value in (float("inf"), 1e300, "x", None)),
    ],
)
def test_a_model_with_facts_that_can_not_be_is_refused(facts: dict[str, Any], copy: Path) -> None:
    folder = fine_tuned(copy, **{**facts, **({} if facts["task"] == "regress" else {"classes": facts["classes"]})})
    with pytest.raises(UserError, match=r"finetuned can't be loaded: its (temperature|config.json has no classes|label mean|label std)"):
        load_model(folder)


# ---------------------------------------------------------------------------------------------------------- weights


def not_finite(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    name = max(name for name, weight in weights.items() if weight.is_floating_point())
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_weight_that_is_no_number_is_seen(value: float, copy: Path) -> None:
    folder = fine_tuned(copy, **CLASSIFY)
    not_finite(folder, value)
    with pytest.raises(UserError, match=r"it has weights that are not finite \(1 of [\d,]+ values of "):
        load_model(folder)
    not_finite(copy / "encoder", value)
    with pytest.raises(UserError, match="encoder can't be loaded: it has weights that are not finite"):
        load_encoder(copy)


def test_modules_that_are_compared_are_looked_at(copy: Path) -> None:
    linear = torch.nn.Linear(256, 4)
    torch.nn.init.constant_(linear.weight, float("nan"))
    module = torch.nn.Sequential(torch.nn.Flatten(), linear)
    pictures = (np.zeros((4, 16, 16, 1), np.uint8), np.arange(4) % 2)
    with pytest.raises(UserError, match=r"Sequential has weights that are not finite \(1,024 of 1,024"):
        ut.evaluate(module, pictures)
    with pytest.raises(UserError, match="Sequential has weights that are not finite"):
        ut.evaluate(ut.load(copy), pictures, against=[module])


def fit_of(folder: Path) -> Any:
    run: Any = Trainer.__new__(Trainer)
    run.method, run.folder, run.clock, run.train_config = torch.nn.Linear(2, 2), folder, Clock(), TrainConfig(steps=4)
    run.train_step, run.events = SimpleNamespace(optimizer=torch.optim.SGD(run.method.parameters(), 0.1)), SimpleNamespace(evaluations=4)
    return run


def test_a_run_is_not_gone_on_with_from_weights_that_are_none(tmp_path: Path) -> None:
    run = fit_of(tmp_path)
    place = {"step": 1, "epoch": 0, "step_in_epoch": 1, "entered": -1, "total": None, "seconds": 1.5}
    state = {"method": run.method.state_dict(), "optimizer": run.train_step.optimizer.state_dict(), "place": place}
    for plan in ({}, {"plan": PLAN}):
        run.restore({**state, "place": place | plan})
        assert run.total == (9 if plan else None)
    run.restore(state)
    assert (run.step, run.entered, run.total, run.clock.total) == (1, -1, None, 1.5)
    state["method"] = {name: value.clone().fill_(float("nan")) for name, value in state["method"].items()}
    with pytest.raises(UserError, match="can't be resumed: the checkpoint has weights that are not finite"):
        run.restore(state)


ODD = [{"step": -1}, {"step": 1 << 60}, {"epoch": "1"}, {"total": 2.5}, {"seconds": float("nan")}, {"entered": None}]
PLAN: dict[str, Any] = {"total": 9, "start": 2, "begun": 0.2, "due": 3, "timed": [[1, 0.5], [2, 1.5]]}
ODD += [{"plan": PLAN | odd} for odd in ({"start": 10}, {"begun": float("nan")}, {"begun": 2.0}, {"due": "3"}, {"total": 1 << 60})]
ODD += [
    {"plan": PLAN | {"timed": timed}} for timed in ([[2, 1.0], [1, 2.0]], [[1, 1.0], [1, 2.0]], [[1, float("nan")], [2, 1.0]], [[1, -1.0]])
]


@pytest.mark.parametrize("other", ODD)
def test_a_place_that_can_not_be_is_of_another_run(other: dict[str, Any], tmp_path: Path) -> None:
    run = fit_of(tmp_path)
    place = {"step": 1, "epoch": 0, "step_in_epoch": 1, "entered": -1, "total": 4, "seconds": 1.5, **other}
    with pytest.raises(UserError, match="belong to another run"):
        run.restore({"method": run.method.state_dict(), "optimizer": run.train_step.optimizer.state_dict(), "place": place})


def test_a_checkpoint_that_unpacks_to_more_than_it_is_large_is_passed_over(tmp_path: Path) -> None:
    place = checkpoint.save(tmp_path / "checkpoints", 1, {"method": {"a": torch.zeros(1 << 16)}})
    with zipfile.ZipFile(place / "state.pt") as stored, zipfile.ZipFile(place / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        for part in stored.infolist():
            packed.writestr(part.filename, stored.read(part), zipfile.ZIP_DEFLATED)
    os.replace(place / "packed", place / "state.pt")
    (place / "manifest.json").write_text(json.dumps({"files": {"state.pt": checkpoint._checksum(place / "state.pt")}}))
    with pytest.raises(UserError, match="no intact checkpoint in"):
        checkpoint.load(tmp_path / "checkpoints", lambda line: None)


# ---------------------------------------------------------------------------------------------- metrics, scores, samples


def rows(count: int) -> str:
    made = ({"step": i, "loss": 1.0} | ({"health": {"std": 1.0}} if i % 1000 == 0 else {}) for i in range(1, count + 1))
    return "".join(json.dumps(row) + "\n" for row in made)


DAMAGED = b'\xff\xfe\x00\n[1]\n"x"\n{"step": "2"}\n{"step": 1e400}\n{"loss": 3}\n{"step": true}\n{"step": -1}\n' + b"[" * 5000 + b"\n"


def test_what_is_no_row_is_passed_over_by_report_and_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = b'{"step": 3, "x": "' + b"y" * LONGEST + b'"}\n'
    path.write_bytes(DAMAGED + b'{"step": 1}\n' + line + b'{"step": 2, "loss": 0.5}\n{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    Metrics(path, 1).close()
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_long_diary_is_thinned_and_its_last_row_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BUDGET", 1 << 15)
    (tmp_path / "metrics.jsonl").write_text(rows(8_000))
    found = read_metrics(tmp_path / "metrics.jsonl")
    assert (1 << 14) < sum(len(json.dumps(row)) for row in found) <= 2 << 15
    assert found[-1]["step"] == 8_000
    assert [row["step"] for row in found if "health" in row] == list(range(1000, 8_001, 1000))
    steps = np.diff([row["step"] for row in found if "health" not in row])
    assert 1 < steps.max() <= 16
    (tmp_path / "metrics.jsonl").write_text(rows(800))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 801))


def test_the_others_of_several_processes_write_no_diary() -> None:
    """Their diary was /dev/null: as root, that was replaced by a file."""
    diary = Metrics(None, 3)
    diary.write({"step": 4})
    diary.close()


def test_scores_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    row = {"features": "encoder", "probe": "linear", "labels": "all", "metric": "accuracy", "mean": 0.5}
    odd = [{**row, "mean": float("nan")}, {**row, "mean": float("inf")}, {**row, "low": float("nan"), "high": 0.7}]
    path.write_text(json.dumps({"schema": 1, "rows": [row, *odd]}))
    assert read_rows(path) == [row]
    write_report(tmp_path)
    for mean in ("0.5", None, True, [0.5], 10**30):
        path.write_text(json.dumps({"schema": 1, "rows": [{**row, "mean": mean}]}))
        with pytest.raises(UserError, match="can't be read"):
            read_rows(path)
        write_report(tmp_path)


def sample_of(trained: Path) -> dict[str, np.ndarray]:
    with np.load(trained / "sample.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def test_a_sample_that_says_it_is_vast_is_never_read(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was read"))
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 30, 8)})
    (tmp_path / "sample.npz").unlink(missing_ok=True)
    with zipfile.ZipFile(trained / "sample.npz") as whole_one, zipfile.ZipFile(tmp_path / "sample.npz", "w") as archive:
        for member in whole_one.infolist():
            archive.writestr(member.filename, buffer.getvalue() if member.filename == "features.npy" else whole_one.read(member))
    assert load_sample(tmp_path) is None


def test_a_sample_with_more_decoded_than_is_kept_is_none(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_sample(trained) is not None
    np.savez(tmp_path / "sample.npz", **{**sample_of(trained), "batch.pixels": np.zeros((ROWS + 1, 1, 8, 8), np.uint8)})
    assert load_sample(tmp_path) is None
    monkeypatch.setattr("untaught.report.samples.DECODED", 1000)
    assert load_sample(trained) is None


def test_a_sample_with_a_long_list_of_members_is_none(trained: Path, tmp_path: Path) -> None:
    shutil.copy(trained / "sample.npz", tmp_path)
    with zipfile.ZipFile(tmp_path / "sample.npz", "a") as archive:
        for number in range(1500):
            archive.writestr(f"{number}.npy", b"")
    assert load_sample(tmp_path) is None
