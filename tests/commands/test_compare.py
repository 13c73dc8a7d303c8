"""`compare`: the better half of the methods goes on, whatever happens on the way, on a modality of a few lines."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import AtRow, Cli
from torch import nn

import untaught as ut
from untaught.commands import compare as commands
from untaught.core import UserError
from untaught.modalities import MODALITIES
from untaught.report import comparison

KNOBS: dict[str, Any] = {"batch_size": 32, "precision": "float32", "encoder__width": 16, "encoder__depth": 1, "log_every": 2}


@pytest.fixture(scope="module", autouse=True)
def point(tmp_path_factory: pytest.TempPathFactory, bare_runs: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "conformance")
        patch.setitem(MODALITIES, "point", "point:POINT")
        patch.setenv("UNTAUGHT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def clusters(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Points (rows,6) around two centres, and which of the two."""
    random = np.random.default_rng(seed)
    label = np.arange(rows) % 2
    return {"point": (random.normal(size=(rows, 6)) + 2 * label[:, None]).astype(np.float32), "label": label}


def write(path: Path, labelled: bool) -> Path:
    parts = {part: clusters(rows, seed) for seed, (part, rows) in enumerate({"train": 160, "test": 60}.items())}
    kept = ("point", "label") if labelled else ("point",)
    np.savez(path, **{f"{part}_{name}s": found[name] for part, found in parts.items() for name in kept})  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "points.npz", True)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "points.npz", False)


METHODS = ["simclr", "simclr:temperature=0.5", "simclr+dcl:0.5", "moco"]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ut.Comparison:
    return ut.compare(data, METHODS, steps=48, out=tmp_path_factory.mktemp("runs") / "compare", modality="point", **KNOBS)


def without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if "seconds" not in key}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def digests(folder: Path) -> dict[str, str]:
    return {path.parent.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/encoder/model.safetensors")}


def test_the_better_half_goes_on_and_the_best_is_measured_on_the_test_part(whole: ut.Comparison) -> None:
    first, second = whole.result["rounds"]
    assert set(first["results"]) == set(METHODS)
    assert first["each"] == 6
    assert second["each"] == 12
    best = sorted(first["results"], key=lambda name: -first["results"][name]["score"])[:2]
    assert set(first["kept"]) == set(best) == set(second["results"])
    assert {one["steps"] for one in second["results"].values()} == {18}
    chosen = max(second["results"], key=lambda name: second["results"][name]["score"])
    assert whole.result["winner"] == chosen
    accuracy = [row for row in whole.result["test"] if row["metric"] == "accuracy"]
    assert {row["features"] for row in accuracy} == {"encoder", "random_init", "raw"}
    assert whole.winner.config["width"] == 16
    kept = {(row["features"], row["probe"], row["metric"]): row["mean"] for row in whole.winner.scores}
    assert all(kept[row["features"], "linear", "accuracy"] == row["mean"] for row in accuracy)
    others = [place.parent.name for place in whole.path.glob("*/evaluation.json")]
    assert others == [whole.winner.path.name], "only the winner is measured on the test part"


def test_scores_are_those_of_the_saved_encoders(whole: ut.Comparison, data: Path) -> None:
    """The validation score of the winner, from its folder: a linear probe, fitted on four fifths of the training part."""
    from untaught.config.registry import modality_named
    from untaught.evaluation.class_probes import linear_probe
    from untaught.evaluation.selection import fifths
    from untaught.pipeline.dataset import open_dataset

    training = clusters(160, 0)
    with torch.no_grad():
        features = whole.winner.encoder(ut.View(torch.from_numpy(training["point"]))).numpy()
    opened = open_dataset(data, modality_named("point"), columns=None, label=None, split=None)
    opened.open(False, 0)
    assert opened.store is not None
    folds = fifths(training["label"], 0, opened.store.groups[opened.parts["train"]])
    right = []
    for fold in range(5):
        fit, judged = folds != fold, folds == fold
        guess, _ = linear_probe(features[fit], features[judged]).predict(np.arange(fit.sum()), training["label"][fit])
        right.append((guess == training["label"][judged]).mean())
    assert whole.result["rounds"][-1]["results"][whole.result["winner"]]["score"] == pytest.approx(np.mean(right), abs=1e-6)


def test_baselines_race_along(whole: ut.Comparison) -> None:
    baselines = whole.result["baselines"]
    assert next(iter(baselines)) == "raw"
    assert "random_init: mlp width=16 depth=1" in baselines
    assert all(0 <= one["low"] <= one["score"] for one in baselines.values())


def test_another_comparison_is_the_same(whole: ut.Comparison, data: Path, tmp_path: Path) -> None:
    again = ut.compare(data, METHODS, steps=48, out=tmp_path / "again", modality="point", **KNOBS)
    assert without_clock(again.result) == without_clock(whole.result)
    assert digests(again.path) == digests(whole.path)


@pytest.mark.parametrize("fails_at", [1, 3, 5, 6])
def test_resumed_after_a_kill_it_is_as_if_nothing_had_happened(
    fails_at: int, whole: ut.Comparison, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends within the training of the n-th run, as a kill would: what is on the disk is all that is left."""

    class Killed(BaseException):
        pass

    count, run = 0, commands.pretrain

    def killed(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count < fails_at:
            return run(*arguments, **named)
        from untaught.training.metrics import Metrics

        def die(self: Any, row: Any) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Metrics, "write", die)
            run(*arguments, **named)
        raise Killed

    monkeypatch.setattr(commands, "pretrain", killed)
    with pytest.raises(Killed):
        ut.compare(data, METHODS, steps=48, out=tmp_path / "out", modality="point", **KNOBS)
    monkeypatch.setattr(commands, "pretrain", run)
    assert comparison.read(tmp_path / "out")["winner"] is None
    with pytest.raises(UserError, match="not finished"):
        ut.Comparison(tmp_path / "out").winner  # noqa: B018
    resumed = ut.compare(out=tmp_path / "out", resume=True)
    for key in ("rounds", "winner", "test", "baselines"):
        assert without_clock(resumed.result[key]) == without_clock(whole.result[key])
    assert digests(resumed.path) == digests(whole.path)
    done = digests(resumed.path)
    ut.compare(out=tmp_path / "out", resume=True)  # finished: nothing is trained
    assert digests(resumed.path) == done


def test_a_signal_ends_it_in_one_line_and_it_is_continued(cli: Cli, tmp_path: Path) -> None:
    out, knobs = tmp_path / "out", ("steps=32", "size=8", "batch_size=32", "encoder.width=4", "log_every=2", "precision=float32")
    command = ("compare", "builtin:digits", *knobs, "--methods", "simclr,rotation", "--out", out)
    stopped = cli.start(*command, first=AtRow(10, signal.SIGTERM)).wait()
    assert stopped.code == 128 + signal.SIGTERM
    lines = [line for line in stopped.err.splitlines() if line.startswith("stopped")]
    assert lines == [f"stopped   by SIGTERM; continue with: untaught compare --out {out} --resume"]
    assert len(json.loads((out / "compare.json").read_text())["rounds"][0]["results"]) == 1
    going_on = cli("compare", "--out", out, "--resume")
    assert going_on.code == 0, going_on.err
    assert "is first: linear accuracy" in going_on.out
    assert (out / "compare.html").exists()
    again = cli(*command)
    assert "already contains a comparison; continue it with --resume" in again.error
    assert "minutes 3.0: the comparison" in cli("compare", "--out", out, "--resume", "--minutes", 3).error
    listed = cli("runs", out)
    assert listed.code == 0
    assert listed.out.splitlines()[0].split()[:3] == ["run", "data", "method"]
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == ["rotation", "simclr"]


def test_without_labels_three_criteria_decide_or_say_that_they_do_not(unlabelled: Path, tmp_path: Path) -> None:
    found = ut.compare(unlabelled, ["simclr", "dcl", "moco"], steps=24, out=tmp_path / "out", modality="point", **KNOBS)
    text = " ".join(found.sentences)
    last = found.result["rounds"][-1]
    assert "score" not in next(iter(last["results"].values()))
    assert all(one["rankme"] >= 1 for one in last["results"].values())
    assert ("not decisive" in text) == (last["agreement"] < 0.5)
    assert "a few labels decide better" in text
    assert found.result["test"] == []
    assert "the data has no labels" in found.result["scored_on"]
    for one in found.result["rounds"]:
        assert len(one["kept"]) == (len(one["order"]) if one["agreement"] < 0.5 else -(-len(one["order"]) // 2))
    page = (found.path / "compare.html").read_text()
    assert "RankMe" in page
    with pytest.raises(UserError, match="labels=5/class can't be used: the data has no labels"):
        ut.compare(unlabelled, ["simclr"], steps=8, labels="5/class", out=tmp_path / "b", modality="point", **KNOBS)
    assert not (tmp_path / "b").exists()


def test_criteria_that_disagree_drop_nothing(unlabelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "label_free_order", lambda results: (sorted(results), -0.25))
    found = ut.compare(unlabelled, ["simclr", "dcl", "moco", "nnclr"], steps=48, out=tmp_path / "out", modality="point", **KNOBS)
    assert [len(one["kept"]) for one in found.result["rounds"]] == [4, 4]
    assert [one["each"] for one in found.result["rounds"]] == [6, 6]  # the whole budget, over as many rounds
    assert found.sentences[0].startswith("not decisive: the mean rank correlation of RankMe, alpha-ReQ and pretext loss is -0.25")


def test_one_method_gets_the_whole_budget(data: Path, tmp_path: Path) -> None:
    found = ut.compare(data, ["simclr"], steps=10, out=tmp_path / "out", modality="point", against=[Line()], **KNOBS)
    (only,) = found.result["rounds"]
    assert only["results"]["simclr"]["steps"] == 10
    assert "against:Line" in found.result["baselines"]
    assert {row["features"] for row in found.result["test"]} == {"encoder", "random_init", "raw", "against:Line"}


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x)


def test_a_warning_about_the_data_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = clusters(80, 0), clusters(40, 1)
    test["point"][:3] = train["point"][:3]
    parts: dict[str, Any] = {f"{part}_{name}s": each[name] for part, each in {"train": train, "test": test}.items() for name in each}
    np.savez(tmp_path / "points.npz", **parts)
    ut.compare(tmp_path / "points.npz", ["simclr", "moco"], steps=8, out=tmp_path / "out", modality="point", **KNOBS)
    assert capsys.readouterr().err.count("3 of 40 points in test are also in the training split") == 1


def test_few_labels_are_all_that_is_read(data: Path, tmp_path: Path) -> None:
    found = ut.compare(data, ["simclr"], steps=4, labels="10/class", out=tmp_path / "out", modality="point", **KNOBS)
    assert found.result["scored_on"].startswith("20 labelled training points, validated on 5 of 5 fifths")
    assert {row["labels"] for row in found.result["test"]} == {"10/class"}
    with pytest.raises(UserError, match="2 labelled training samples are too few"):
        ut.compare(data, ["simclr"], steps=4, labels="1/class", out=tmp_path / "b", modality="point", **KNOBS)


def test_what_cant_be_compared_is_one_line_before_any_training(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    how: dict[str, Any] = {"out": out, "modality": "point", "steps": 40}
    for methods, message in {
        ("simclr", "mae"): "mae: MAE reads the view",
        ("mae", "rotation"): "mae: MAE reads the view",
        ("simcrl",): "unknown method simcrl; did you mean simclr",
        ("simclr", "simclr"): "simclr twice",
        ("simclr:temperature=0",): "temperature",
        ("simclr:0.5",): "unknown method simclr:0.5",
        ("simclr:steps=3",): "steps is the same for all methods",
        ("simclr:a=1:b",): "b is not a knob",
        (): "--methods is empty",
    }.items():
        with pytest.raises(UserError, match=message):
            ut.compare(data, methods, **how, **KNOBS)
    with pytest.raises(UserError, match="steps=2 is too small a budget for 4 methods; give at least 8"):
        ut.compare(data, METHODS, **(how | {"steps": 2}), **KNOBS)
    with pytest.raises(UserError, match="minutes and steps are mutually exclusive"):
        ut.compare(data, ["simclr"], minutes=1, **how, **KNOBS)
    with pytest.raises(UserError, match="epochs: compare trains"):
        ut.compare(data, ["simclr"], epochs=1, **how, **KNOBS)
    with pytest.raises(UserError, match="labels=many: must be"):
        ut.compare(data, ["simclr"], labels="many", **how, **KNOBS)
    assert not out.exists()


def test_by_default_methods_that_cant_run_are_left_out_and_said(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "CANDIDATES", ("mae", "simclr", "rotation"))
    found = ut.compare(data, steps=4, out=tmp_path / "out", modality="point", **KNOBS)
    assert [one["title"] for one in found.result["methods"]] == ["simclr"]
    assert set(found.result["left_out"]) == {"mae", "rotation"}
    assert "left out  mae: MAE reads the view" in capsys.readouterr().err
    assert "mae was left out" in (found.path / "compare.html").read_text()
    with pytest.raises(UserError, match=r"^timm/resnet18 takes images, not points"):  # no fault of the methods
        ut.compare(data, steps=4, against=["timm/resnet18"], out=tmp_path / "none", modality="point", **KNOBS)
    monkeypatch.setattr(commands, "_candidates", lambda first: ["mae", "rotation"])
    with pytest.raises(UserError, match=r"no method can be compared on points \(mae: MAE reads"):
        ut.compare(data, steps=4, out=tmp_path / "none", modality="point", **KNOBS)


class Failing(ut.methods.SimCLR):  # type: ignore[misc]
    """Ends in an error at its third step."""

    def forward(self, views: Any, progress: float) -> Any:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 2:
            raise RuntimeError("no such luck\nat all")
        return super().forward(views, progress)


class Shrinking(ut.methods.SimCLR):  # type: ignore[misc]
    """Maps all samples to one point."""

    def after_step(self, progress: float) -> None:
        with torch.no_grad():
            for parameter in self.encoder.parameters():
                parameter.fill_(float(parameter.ndim == 1))


def test_a_method_that_fails_or_collapses_is_dropped_with_its_cause(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how: dict[str, Any] = {"modality": "point", **KNOBS}
    found = ut.compare(data, [Failing, Shrinking, "simclr"], steps=400, out=tmp_path / "out", **how)
    dropped = found.result["rounds"][0]["dropped"]
    assert dropped["Failing"] == "failed: RuntimeError: no such luck"
    assert dropped["Shrinking"].startswith("collapsing because ")
    assert found.result["winner"] == "simclr"
    assert found.result["rounds"][-1]["results"]["simclr"]["steps"] == found.result["rounds"][0]["each"]
    said = capsys.readouterr().err
    assert "warning: Failing is dropped in round 1: failed: RuntimeError: no such luck\n" in said
    assert "Failing was dropped in round 1: failed: RuntimeError" in (found.path / "compare.html").read_text()
    with pytest.raises(UserError, match=r"every method failed or collapsed \(Failing: failed: RuntimeError: no such luck"):
        ut.compare(data, [Failing], steps=20, out=tmp_path / "none", **how)


def test_the_full_disk_is_no_fault_of_the_method(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise UserError("metrics.jsonl can't be written: no space left; free some")

    with monkeypatch.context() as patch:
        patch.setattr(commands, "pretrain", full)
        with pytest.raises(UserError, match="no space left"):
            ut.compare(data, ["simclr", "dcl"], steps=8, out=tmp_path / "out", modality="point", **KNOBS)
    found = ut.compare(out=tmp_path / "out", resume=True)
    assert found.result["winner"] in ("simclr", "dcl")
    assert found.result["rounds"][0]["dropped"] == {}


def test_a_comparison_that_is_damaged_or_another_is_refused(whole: ut.Comparison, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    state = json.loads((whole.path / "compare.json").read_text())
    outside = [{**state["methods"][0], "folder": "../../elsewhere"}]
    for damaged, message in {
        "{": "can't be read",
        "[]": "is not a comparison of this version",
        json.dumps({**state, "schema": 2}): "is not a comparison of this version",
        json.dumps({**state, "methods": outside}): "methods are damaged",
        json.dumps({**state, "rounds": [{"each": "x"}]}): "rounds are damaged",
        json.dumps({**state, "budget": "x"}): "budget has the wrong type",
    }.items():
        (out / "compare.json").write_text(damaged)
        with pytest.raises(UserError, match=message):
            ut.compare(out=out, resume=True)
    for given, message in {"minutes": "minutes 3.0: the comparison", "labels": "labels 1%: the comparison"}.items():
        with pytest.raises(UserError, match=message):
            ut.compare(out=whole.path, resume=True, **{given: {"minutes": 3, "labels": "1%"}[given]})
    with pytest.raises(UserError, match="width: a comparison is resumed as it was started"):
        ut.compare(out=whole.path, resume=True, width=8)
    with pytest.raises(UserError, match="resume it without data"):
        ut.compare("builtin:digits", out=whole.path, resume=True)
    with pytest.raises(UserError, match="is a run folder"):
        ut.compare(data, ["simclr"], steps=4, out=whole.winner.path, modality="point")
    with pytest.raises(UserError, match="has no comparison to resume"):
        ut.compare(out=tmp_path / "nothing", resume=True)


def test_its_page_is_self_contained_and_escapes_what_it_shows(whole: ut.Comparison, tmp_path: Path) -> None:
    page = (whole.path / "compare.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<svg") >= 1 + len(METHODS)
    for title in METHODS:
        assert f">{title}<" in page
    nasty = "<script>alert(1)</script>\x1b[2J"
    state = json.loads((whole.path / "compare.json").read_text())
    state |= {"data": nasty, "left_out": {nasty: nasty}, "baselines": {nasty: state["baselines"]["raw"]}}
    (tmp_path / "compare.json").write_text(json.dumps(state))
    hostile = comparison.write(tmp_path).read_text()
    assert "<script>alert" not in hostile
    assert "\x1b" not in hostile


def rounds(*orders: str) -> list[dict[str, Any]]:
    return [{"each": 2.0, "results": dict.fromkeys(order), "dropped": {}, "order": list(order)} for order in orders]


@pytest.mark.parametrize(
    ("orders", "winner", "share"),
    [(("abcd", "ab"), "a", 8 / 12), (("bacd", "ab"), "a", 1.0), (("abcd", "ba", "a"), "a", 1.0), (("abcd", "ab", "a"), "a", 8 / 14)],
)
def test_the_regret_is_the_share_from_which_the_winner_stayed_first(orders: tuple[str, ...], winner: str, share: float) -> None:
    assert comparison.regret({"rounds": rounds(*orders), "winner": winner}) == pytest.approx(share)


def test_where_a_baseline_wins_that_is_said_first(whole: ut.Comparison) -> None:
    better = {**whole.result["baselines"]["raw"], "score": 1.0}
    said = comparison.sentences({**whole.result, "baselines": {"raw": better}})
    assert said[0].startswith("no method is better than raw data (100.0%); the best is ")
