"""wav2vec 2.0 and HuBERT from files to encoders: interrupted in a later phase, evaluated, loaded by transformers, gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.inference.embed import Embedder, vectors_of
from untaught.pipeline.pretrained import load_encoder

soundfile = pytest.importorskip("soundfile")
SMALL: dict[str, Any] = {"encoder.width": 16, "encoder.depth": 2, "encoder.heads": 2, "encoder.channels": 4, "batch_size": 8}
FEW = {"evaluate_every": 0, "health_every": 0, "log_every": 1}


def trained(data: Path | None, method: str | None, out: Path, resume: bool = False, encoder: Any = None, **knobs: Any) -> Path:
    arguments = PretrainArguments(data and str(data), method, encoder=encoder, out=out, modality="audio" if data else None, knobs=knobs)
    return pretrain(arguments, resume).path


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen tones of two pitches and different lengths, in folders by pitch."""
    place, generator = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for number in range(16):
        pitch, length = (250, 1000)[number % 2], int(generator.integers(1500, 3000))
        wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(length) / 8000) + 0.02 * generator.standard_normal(length)
        (place / str(pitch)).mkdir(exist_ok=True)
        soundfile.write(place / str(pitch) / f"{number}.wav", wave.astype(np.float32), 8000)
    return place


def test_wav2vec2_makes_an_encoder_that_transformers_reads_and_other_methods_go_on_with(tones: Path, tmp_path: Path) -> None:
    run = trained(tones, "wav2vec2", tmp_path / "a", steps=2, codes=8, **SMALL, **FEW)  # type: ignore[arg-type]
    found = load_encoder(run)
    assert found.prep.settings["input"] == "waveform"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert {"contrastive", "diversity", "penalty", "accuracy", "code_perplexity"} <= rows[0].keys()
    from transformers import AutoFeatureExtractor, AutoModel

    folder = run / "encoder"
    wave, rate = soundfile.read(next((tones / "250").glob("*.wav")), dtype="float32")
    given = AutoFeatureExtractor.from_pretrained(folder)(wave, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state.mean(1)[0]
    own = torch.from_numpy(np.asarray(vectors_of(Embedder(found, str(next((tones / "250").glob("*.wav"))))), np.float32))[0]
    assert torch.nn.functional.cosine_similarity(own, theirs, dim=0) > 0.999  # ours in bfloat16 where the machine has it
    again = trained(tones, "hubert", tmp_path / "b", encoder=str(run), steps=1, units=4, batch_size=8, **FEW)  # type: ignore[arg-type]
    assert load_encoder(again).network.width == 16


def test_huberts_second_phase_is_resumed_bit_for_bit(tones: Path, tmp_path: Path) -> None:
    knobs = {"units": 4, "later_units": 3, "save_every": 1, **SMALL, **FEW}
    whole, part = (trained(tones, "hubert", tmp_path / name, epochs=3, **knobs) for name in ("whole", "part"))
    state = load_encoder(whole).network.state_dict()
    kept = sorted((part / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    for later in kept[1:]:
        shutil.rmtree(later)
    shutil.rmtree(part / "encoder")
    assert len(kept) > 1
    again = trained(None, None, part, resume=True)
    assert all(torch.equal(value, state[name]) for name, value in load_encoder(again).network.state_dict().items())
