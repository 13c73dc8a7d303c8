"""timm's networks on spectrograms: windows by plain loops, nothing of padding, folders that load, programs that take any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from untaught.config.registry import build_encoder
from untaught.core import Preprocessor, UserError, View
from untaught.encoders.timm import timm_encoder
from untaught.export import formats
from untaught.modalities.audio import AUDIO, expects
from untaught.pipeline.pretrained import load_encoder, save_encoder

BANDS, STEPS = 32, 32
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "mobilenetv3_small_050": {},  # squeezes and excites, by the mean over an image
    "vit_tiny_patch16_224": {"depth": 2, "embed_dim": 32, "num_heads": 2},
}
each = pytest.mark.parametrize("name", NETWORKS)


def network(name: str, **given: Any) -> Any:
    torch.manual_seed(0)
    return timm_encoder(name, channels=BANDS, length=STEPS, **NETWORKS[name], **given)


def sequences(padding: int = 0) -> tuple[Tensor, Tensor]:
    """Lengths from 1 to more than two windows; garbage beyond the end."""
    counts = torch.tensor([75, 32, 33, 9, 1])
    x = torch.randn(5, 75, BANDS, generator=torch.Generator().manual_seed(1))
    x = torch.cat([x, torch.zeros(5, padding, BANDS)], 1)
    valid = torch.arange(75 + padding) < counts.unsqueeze(1)
    return torch.where(valid.unsqueeze(2), x, 7.5), valid


@each
def test_a_sequence_is_read_in_windows_that_begin_again_at_its_start(name: str) -> None:
    encoder = network(name).eval()
    x, valid = sequences()
    found = encoder(View(x, valid))
    for row in range(len(x)):
        own = x[row][valid[row]].tolist()
        vectors = []
        for first in range(0, len(own), STEPS):
            image = [own[(first + step) % len(own)] for step in range(STEPS)]
            vectors.append(encoder.inner(View(torch.tensor(image)[None, None])))
        want = torch.cat(vectors).mean(0)
        torch.testing.assert_close(found[row], want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@each
def test_padding_changes_neither_vectors_nor_gradients(name: str, training: bool) -> None:
    """Nor BatchNorm's statistics, in training."""
    encoder, found = network(name).train(training), []
    for padding in (0, 61):
        encoder.zero_grad()
        y = encoder(View(*sequences(padding)))
        y.square().sum().backward()
        found.append([y, *(p.grad for p in encoder.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_without_validity_all_steps_are_read() -> None:
    encoder = network("resnet10t").eval()
    x, valid = sequences()
    torch.testing.assert_close(encoder(View(x[:1])), encoder(View(x[:1], valid[:1])))


@pytest.mark.parametrize(("length", "steps"), [(1, 32), (32, 32), (33, 64), (5000, 1024)])
def test_windows_are_as_long_as_the_longest_sequence_but_limited(length: int, steps: int) -> None:
    assert timm_encoder("resnet10t", channels=BANDS, length=length).steps == steps  # type: ignore[union-attr]


def test_it_keeps_timms_stem_and_names_no_model_for_timm() -> None:
    encoder = network("resnet10t")
    assert encoder.inner.model.conv1[0].stride == (2, 2)
    assert getattr(encoder, "timm_args", None) is None
    assert encoder.offers == {"any_size"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a size": ({"channels": 32, "length": 50, "size": 64}, "encoder.size is for images"),
    "steps of an image": ({"steps": 64}, "encoder.steps is for sequences"),
    "no steps": ({"channels": 32, "length": 50, "steps": 0}, "steps=0: must be a whole number from 1 to 16,384"),
    "fewer bands than a patch": ({"channels": 8, "length": 50}, "can't take 1 x 64 x 8 images"),
}


@pytest.mark.parametrize(("given", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        timm_encoder("vit_tiny_patch16_224", **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_for_an_encoder_of_sequences_are_one_line() -> None:
    with pytest.raises(UserError, match="takes sequences"):
        network("resnet10t")(View(torch.rand(2, 1, 32, 32)))


def test_recordings_are_spectrograms_for_it() -> None:
    assert expects("timm/resnet18") == {"input": "log_mel"}
    with pytest.raises(UserError, match="does not take inputs with rate"):
        build_encoder("timm/resnet18", {"rate": 8000}, {})


def test_a_saved_one_gives_the_same_vectors(tmp_path: Path) -> None:
    settings = {"rate": 8000, "seconds": 0.31, "segment": 30.0, "input": "log_mel", "normalise": "data", "standardise": True}
    settings |= {"mels": BANDS, "window": 200, "hop": 80, "ragged": ["wave"]}
    prep = Preprocessor(AUDIO, settings, {"mean": [-5.0], "std": [3.0]})
    knobs = {"steps": STEPS}
    encoder: Any = build_encoder("timm/resnet10t", prep.encoder_arguments, knobs)
    x, valid = sequences()
    encoder(View(x, valid))  # running statistics
    config = {"untaught": "0", "method": "simclr", "encoder": "timm/resnet10t", "encoder_knobs": knobs, "view": "whole"}
    save_encoder(encoder, tmp_path / "encoder", config, prep)
    loaded = load_encoder(tmp_path / "encoder").network
    torch.testing.assert_close(loaded(View(x, valid)), encoder.eval()(View(x, valid)), atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"timm can't build timm/resnet10t as trained here; use --to torch or --to onnx"):
        formats._timm(loaded, config, tmp_path, (x, valid))


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_it_is_exported_for_any_length(kind: str, tmp_path: Path) -> None:
    encoder = network("resnet10t").eval()
    with torch.no_grad():
        for counts in ((20, 5, 1), (75, 40, 32)):  # less than a window, and several
            x, valid = torch.randn(3, counts[0], BANDS), torch.arange(counts[0]) < torch.tensor(counts).unsqueeze(1)
            if kind == "onnx":
                pytest.importorskip("onnxruntime", reason="pip install untaught[onnx]")
            said = formats.FORMATS[kind](encoder, {}, tmp_path, formats._lengthened(encoder, (x, valid)))
            assert said.deviation < 1e-3
        if kind == "torch":
            program = torch.export.load(said.path).module()
            for steps in (33, 64, 150):
                x, valid = torch.randn(4, steps, BANDS), torch.arange(steps) < torch.tensor([[steps], [steps - 7], [20], [1]])
                torch.testing.assert_close(program(x, valid), encoder(View(x, valid)), atol=1e-5, rtol=1e-4)
