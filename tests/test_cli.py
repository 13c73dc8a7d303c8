"""The command line as a user runs it, in processes of their own: what works, and one clear line for what does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import Cli, Running
from PIL import Image
from pyarrow import parquet

import untaught as ut

TINY = ("steps=3", "encoder.width=8", "size=16", "batch_size=8", "precision=float32")
DIGITS = ("pretrain", "builtin:digits", *TINY)


def write_pictures(folder: Path, count: int, mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, len(mode)), dtype=np.uint8).squeeze()
        Image.fromarray(pixels).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "photos", 24)


@pytest.fixture(scope="session")
def run(cli: Cli, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that ended well."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = cli("pretrain", photos, *TINY, "--out", out)
    assert done.code == 0, done.err
    return out


# ---------------------------------------------------------------------------------------------------- wrong words

WRONG_KNOBS = {
    "lr=-1": "lr=-1: must be a number from 1e-12 to 1,000,000 or none",
    "lr=nan": "lr=nan: must be a number from 1e-12 to 1,000,000 or none",
    "batch_size=0": "batch_size=0: must be a whole number from 1 to 1,048,576 or none",
    "batch_size=9999": "batch_size=9999 is larger than the training part of 1438 images; choose at most 1438",
    "epochs=two": "epochs=two: must be a whole number from 1 to 1,000,000 or none",
    "temperature=0": "temperature=0: must be a number from 1e-06 to 1,000,000",
    "temperature=abc": "temperature=abc: must be a number",
    "encoder.depth=x": "encoder.depth=x: must be a whole number",
    "encoder.widht=8": "unknown knob of conv_small encoder.widht; did you mean encoder.width",
    "view0.scale=7": "view0.scale=7: must be 2 comma-separated numbers",
    "view7.scale=1,1": "unknown view view7; did you mean ",
    "global.blur=yes": "global.blur=yes: must be a finite number",
    "global.blurr=1": "unknown option of the view global blurr; did you mean blur",
    "views=foo,bar": "SimCLR reads the view foo; image offers whole, global",
    "views=global": "views=global: SimCLR takes 2 views, by default global,global",
    "precision=fp8": "precision=fp8: must be one of auto, float32, bf16",
    "optimizer=adamx": "unknown optimizer adamx; did you mean adam",
    "schedule=foo": "schedule=foo: must be one of cosine, linear, constant",
    "preset=foo": "preset=foo: must be one of ",
    "tempratur=1": "unknown knob tempratur; did you mean temperature?",
    "temperature": "temperature is not a knob; write knobs as key=value",
    "minutes=1": "steps and minutes are mutually exclusive",
    "cache_gradients=4 accumulate=2": "accumulate and cache_gradients both split the batch",
    "size=0": "size=0: must be a whole number from 4 to 4,096",
    "--method simcrl": "unknown method simcrl; did you mean simclr",
    "--encoder conv_smal": "unknown encoder conv_smal; did you mean conv_small or conv_mel or conv_series?",
    "--modality images": "unknown modality images; ",
    "--columns photo=x": "--columns photo=... is not a field of images; allowed: image",
    "--label nope": "label",
    "--bogus": "no such option: --bogus",
}


@pytest.mark.parametrize("words", WRONG_KNOBS)
def test_a_wrong_knob_or_option_is_one_line_and_leaves_nothing(cli: Cli, tmp_path: Path, words: str) -> None:
    wrong = words.split()
    kept = [knob for knob in DIGITS if knob.split("=")[0] not in {word.split("=")[0] for word in wrong}]
    assert WRONG_KNOBS[words] in cli(*kept, *wrong, "--out", tmp_path / "run").error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("knob", ["encoder.width=-3", "encoder.width=0", "encoder.depth=0"])
def test_an_encoder_of_no_size_is_one_line(cli: Cli, knob: str) -> None:
    rest = [word for word in DIGITS if not word.startswith("encoder.width")]
    assert knob.split("=")[0] in cli(*rest, knob).error


def test_a_method_that_the_encoder_cannot_serve_says_what_can(cli: Cli) -> None:
    said = cli("pretrain", "builtin:digits", "--method", "mae", "--encoder", "timm/resnet18", "steps=1", "size=32").error
    assert said == "MAE needs an encoder that offers tokens; TimmEncoder offers maps; vit_mini and timm/vit_* offer tokens"


def test_a_refused_run_packs_nothing(cli: Cli, photos: Path, tmp_path: Path) -> None:
    assert cli("pretrain", photos, "--encoder", "nope", UNTAUGHT_CACHE=str(tmp_path / "cache")).error.startswith("unknown encoder nope")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embd"], "no such command 'embd'. Did you mean 'embed'?; see: untaught --help"),
        (["embed"], "missing argument 'run'; see: untaught embed --help"),
        (["methods", "simcrl"], "unknown method simcrl; did you mean simclr"),
        (["encoders", "vitmini"], "unknown encoder vitmini; did you mean vit_mini?"),
        (["pretrain"], "no data given; pass a folder, a table or builtin:digits, or --out RUN --resume"),
        (["pretrain", "--from", "nope.yaml"], "nope.yaml can't be read: "),
        (["preview", "builtin:digits", "-o", "x.jpg"], "x.jpg: the suffix of a preview must be .png"),
    ],
)
def test_wrong_commands_are_one_line(cli: Cli, words: list[str], said: str) -> None:
    assert cli(*words).error.startswith(said)


def test_a_yaml_that_is_no_run_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: simclr\n")
    assert cli("pretrain", "--from", tmp_path).error == f"{tmp_path / 'run.yaml'} is not a run file: it has no data"


# ------------------------------------------------------------------------------------------------------ wrong data


def test_what_is_given_with_from_goes_before_what_the_run_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from untaught import cli
    from untaught.commands import pretrain

    asked: list[pretrain.PretrainArguments] = []
    monkeypatch.setattr(pretrain, "pretrain", lambda one, resume, finish: asked.append(one) or pretrain.Trained(tmp_path))
    (tmp_path / "run.yaml").write_text(
        "data: builtin:digits\nmethod: simclr\nencoder: conv_small\nknobs: {steps: 9, seed: 3}\nlayout: {}\nresolved: {}\n"
    )
    cli.pretrain(knobs=["steps=4", "lr=0.1"], again=tmp_path, method="byol", devices=2)
    (one,) = asked
    assert (one.data, one.method) == ("builtin:digits", "byol")
    assert {key: str(value) for key, value in one.knobs.items()} == {"steps": "4", "seed": "3", "lr": "0.1", "devices": "2"}


def test_a_knobs_value_may_hold_an_equals_sign() -> None:
    from untaught.cli import _knobs

    given = ["encoder.weights=runs/lr=3e-4/model.pt", "steps=2"]
    assert _knobs(given) == {"encoder.weights": "runs/lr=3e-4/model.pt", "steps": "2"}


def test_evaluate_hands_on_all_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from untaught import api, cli

    asked: list[tuple[tuple[object, ...], dict[str, object]]] = []

    def measured(*given: object, **more: object) -> list[dict[str, object]]:
        asked.append((given, more))
        return [{"mean": 0.5}]

    monkeypatch.setattr(api, "evaluate", measured)
    said = {
        "label": "kind",
        "split": "fold",
        "modality": "text",
        "batch_size": 7,
        "out": tmp_path / "e.json",
        "task": "regress",
        "group": "user",
    }
    cli.evaluate("runs/cells", "d.csv", against=["timm/resnet18"], columns="text=body", as_json=True, **said)  # type: ignore[arg-type]
    assert asked == [(("runs/cells", "d.csv"), said | {"against": ["timm/resnet18"], "columns": {"text": "body"}})]
    assert json.loads(capsys.readouterr().out) == [{"mean": 0.5}]


def test_a_path_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    assert cli("pretrain", tmp_path / "nope", *TINY).error.startswith(f"{tmp_path / 'nope'} not found; allowed: ")


def test_an_empty_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in cli("pretrain", tmp_path / "empty", *TINY).error


def test_one_picture(cli: Cli, tmp_path: Path) -> None:
    words = ("pretrain", write_pictures(tmp_path / "one", 1), "steps=1", "size=16")
    assert cli(*words).error.startswith("1 sample (images) to train on; at least 2 are required")


def bomb(path: Path) -> None:
    """A PNG whose header says 60,000 x 60,000."""
    import struct
    import zlib

    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # noqa: E731
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def cut_short(path: Path) -> None:
    write_pictures(path.parent / "cut", 1)
    path.write_bytes((path.parent / "cut" / "000.png").read_bytes()[:300])
    shutil.rmtree(path.parent / "cut")


DAMAGED: dict[str, Callable[[Path], object]] = {
    "cut.png": cut_short,
    "zero.png": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("no image"),
    "bomb.png": bomb,
}


@pytest.mark.parametrize("stream", ["false", "true"])
def test_unreadable_pictures_are_skipped_counted_and_named(cli: Cli, tmp_path: Path, stream: str) -> None:
    folder = write_pictures(tmp_path / "photos", 12)
    for name, make in DAMAGED.items():
        make(folder / name)
    (folder / "notes.txt").write_text("no image, and not called one")
    done = cli("pretrain", folder, *TINY, f"stream={stream}", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "warning: skipped 4 that are not readable images: " in done.err
    assert done.err.count("bomb.png") <= 1
    assert sum(name in done.err for name in DAMAGED) >= 3
    assert (tmp_path / "run" / "encoder").is_dir()


@pytest.mark.parametrize("good", [0, 2])
def test_all_or_too_many_unreadable_pictures_stop(cli: Cli, tmp_path: Path, good: int) -> None:
    folder = write_pictures(tmp_path / "photos", good)
    for name, make in DAMAGED.items():
        make(folder / name)
    said = cli("pretrain", folder, *TINY, "--out", tmp_path / "run").error
    assert any(name in said for name in DAMAGED)
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- places and faults


@pytest.mark.parametrize("parent", ["/proc", "a file"])
def test_an_out_that_cannot_be_written(cli: Cli, tmp_path: Path, parent: str) -> None:
    if parent == "a file":
        parent = str(tmp_path / "file")
        Path(parent).touch()
    said = cli(*DIGITS, "--out", f"{parent}/run").error
    assert said.startswith(f"{parent}/run can't be written: ")
    assert said.endswith("; choose another --out")


def test_a_cache_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = cli(*DIGITS, "--out", tmp_path / "run", UNTAUGHT_CACHE=str(tmp_path / "file" / "cache")).error
    assert "UNTAUGHT_CACHE" in said


def test_a_run_folder_in_use_names_the_process(cli: Cli, tmp_path: Path) -> None:
    from untaught.storage.run_dir import Folder

    folder = Folder(tmp_path / "run")
    folder.hold(fresh=False)
    try:
        said = cli(*DIGITS, "--out", tmp_path / "run").error
        assert said == f"{tmp_path / 'run'} is in use by process {os.getpid()}; wait for it, or choose another --out"
    finally:
        folder.release()


@pytest.mark.parametrize("method", ["simclr", "vicreg", "mae", "byol", "dino"])
def test_a_learning_rate_of_a_million_is_named_with_step_term_and_checkpoint(cli: Cli, tmp_path: Path, method: str) -> None:
    network = ["encoder.embed_dim=24", "encoder.depth=1", "encoder.num_heads=2"] if method == "mae" else ["encoder.width=8"]
    words = ["steps=40", "size=16", "batch_size=32", "log_every=1", "save_every=1", "warmup=0", "lr=1e6", *network]
    said = cli("pretrain", "builtin:digits", "--method", method, *words, "--out", tmp_path / "run").error
    kept = r"(?:the last good checkpoint is (\S+)|there is no checkpoint yet)"
    found = re.match(rf"training diverged at step (\d+): (.*) not finite \(samples .*\); {kept}; try a lower lr", said)
    assert found, said
    step = int(found[1])
    assert found[3] or step == 1, "the first checkpoint, of step 1, would end there again: it is none"
    assert not found[3] or int(found[3].split("-")[-1]) < step
    assert not found[3] or Path(found[3]).is_dir()


# --------------------------------------------------------------------------------------------------------- embedding


def test_vectors_agree_in_parquet_npy_and_python_in_the_datas_order(cli: Cli, run: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("v.parquet", "v.npy"):
        done = cli("embed", run, photos, "-o", tmp_path / name, "--batch-size", 7)
        assert done.code == 0, done.err
        assert f"wrote     24 vectors of 64 to {tmp_path / name}" in done.err
    table = parquet.read_table(tmp_path / "v.parquet")
    vectors = np.stack(table["vector"].to_numpy(zero_copy_only=False))
    assert [Path(name).name for name in table["name"].to_pylist()] == [f"{i:03}.png" for i in range(24)]
    assert np.array_equal(vectors, np.load(tmp_path / "v.npy"))
    assert vectors.dtype == np.float32
    here = ut.load(run).embed(photos)
    assert isinstance(here, np.ndarray)
    np.testing.assert_allclose(vectors, here, rtol=0.02, atol=0.02)
    assert len(np.unique(vectors.round(4), axis=0)) == 24


def test_embed_skips_counts_and_names_what_it_cannot_read(cli: Cli, run: Path, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "photos", 3)
    (folder / "001.png").write_text("no image")
    done = cli("embed", run, folder, "-o", tmp_path / "v.parquet")
    assert done.code == 0
    assert [Path(n).name for n in parquet.read_table(tmp_path / "v.parquet")["name"].to_pylist()] == ["000.png", "002.png"]
    assert done.err.count("warning: skipped 1 that are") == 1
    assert "001.png" in done.err


def test_embed_to_a_wrong_ending(cli: Cli, run: Path, photos: Path, tmp_path: Path) -> None:
    said = cli("embed", run, photos, "-o", tmp_path / "v.txt").error
    assert said.endswith("v.txt: the suffix sets the format; allowed: .parquet, .npy")


@pytest.mark.parametrize("kind", ["nothing", "no encoder", "cut weights", "foreign config", "a file"])
def test_embed_without_a_whole_encoder(cli: Cli, run: Path, photos: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "run"
    if kind == "a file":
        place.write_text("hello")
    elif kind != "nothing":
        shutil.copytree(run, place)
    if kind == "no encoder":
        shutil.rmtree(place / "encoder")
    if kind == "cut weights":
        os.truncate(place / "encoder" / "model.safetensors", 1000)
    if kind == "foreign config":
        (place / "encoder" / "config.json").write_text('{"architectures": ["ResNet"]}')
    assert str(place) in cli("embed", place, photos, "-o", tmp_path / "v.npy").error
    assert not (tmp_path / "v.npy").exists()


def test_embed_of_data_with_more_channels_than_the_encoder_has_seen(cli: Cli, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "deep.npy", np.zeros((4, 7, 20, 20), np.uint8))
    said = cli("embed", run, tmp_path / "deep.npy", "-o", tmp_path / "v.npy").error
    assert said.startswith("nothing to embed: none of the images can be read")
    assert not (tmp_path / "v.npy").exists()


# ----------------------------------------------------------------------------------------------------- the rest of it


@pytest.mark.parametrize(("method", "columns"), [("simclr", 3), ("mae", 3)])
def test_preview_draws_whole_and_views(cli: Cli, photos: Path, tmp_path: Path, method: str, columns: int) -> None:
    done = cli("preview", photos, "--method", method, "-o", tmp_path / "p.png", "--rows", 4)
    assert done.code == 0, done.err
    with Image.open(tmp_path / "p.png") as sheet:
        assert sheet.size == (columns * 102 + 6, 4 * 102 + 6 + 18)
        assert len(sheet.getcolors(1 << 20) or []) > 100


@pytest.mark.parametrize("words", [["methods"], ["methods", "mae"], ["encoders"], ["encoders", "conv_small"], ["doctor"]])
def test_lists_are_text_and_json(cli: Cli, words: list[str]) -> None:
    text, machine = cli(*words), cli(*words, "--json")
    assert (text.code, machine.code) == (0, 0), text.err + machine.err
    timeless = lambda said: re.sub(r"[\d.]+ GB free", "GB free", said)  # noqa: E731
    said = json.loads(machine.out)
    for card in said if isinstance(said, list) else [said]:
        for key, value in card.items():
            assert key in text.out
            assert not isinstance(value, str) or timeless(value.split("\n")[-1]) in timeless(text.out)


def control_characters(running: Running) -> set[str]:
    return {c for c in running.out + running.err if not c.isprintable() and c != "\n"}


def test_a_pipe_in_a_narrow_terminal_gets_whole_lines_and_no_control_characters(cli: Cli, photos: Path, tmp_path: Path) -> None:
    done = cli("pretrain", photos, *TINY, "--out", tmp_path / "run", COLUMNS="40")
    assert control_characters(done) == set()
    assert {line.split()[0] for line in done.err.splitlines()} <= {
        *(
            "modality",
            "data",
            "split",
            "input",
            "method",
            "encoder",
            "defaults",
            "training",
            "trained",
            "health",
            "kNN",
            "run",
            "export",
            "report",
        ),
    }
    helped = cli("pretrain", "--help", COLUMNS="40")
    assert control_characters(helped) == set()
    assert max(map(len, helped.out.splitlines())) <= 50
    wide = cli("methods", COLUMNS="40")
    assert "https://arxiv.org/abs/2002.05709" in wide.out


def test_help_is_shown_without_a_command(cli: Cli) -> None:
    bare = cli()
    assert bare.code == 0
    assert bare.out == cli("--help").out
    assert {"pretrain", "embed", "preview", "methods", "encoders", "doctor", "demo"} <= set(bare.out.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['untaught', '--help']\nfrom untaught.cli import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "rich", "sklearn", "datasets", "pandas"} & set(done.stdout.split())


def test_a_wrong_method_is_told_before_fabric_scikit_learn_datasets_and_pandas_are_imported() -> None:
    code = "import sys; sys.argv = ['untaught', 'pretrain', 'x', '--method', 'nope']\nfrom untaught.cli import main\n"
    code += "try: main()\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "error: unknown method nope" in done.stderr
    assert not {"lightning_fabric", "sklearn", "datasets", "pandas", "timm"} & set(done.stdout.split())


def test_python_gives_the_run_its_scores_and_its_vectors(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNTAUGHT_CACHE", cli.variables["UNTAUGHT_CACHE"])
    trained = ut.pretrain("builtin:digits", out=tmp_path / "run", steps=3, encoder__width=8, size=16, batch_size=32)
    assert {(row["features"], row["probe"]) for row in trained.scores} == {
        (features, probe) for features in ("encoder", "random_init", "raw") for probe in ("knn20", "knn200")
    }
    assert all(0 < row["low"] <= row["mean"] <= row["high"] < 1 for row in trained.scores)
    loaded = ut.load(tmp_path / "run")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    vectors = trained.embed(pixels)
    assert isinstance(vectors, np.ndarray)
    assert vectors.shape == (5, 64)
    assert np.array_equal(vectors, np.asarray(loaded.embed(pixels)))
    assert trained.embed(pixels, tmp_path / "v.npy") == tmp_path / "v.npy"
    assert np.array_equal(np.load(tmp_path / "v.npy"), vectors)
