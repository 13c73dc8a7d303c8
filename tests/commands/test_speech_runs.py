"""wav2vec 2.0 and HuBERT from files to encoders: interrupted in a later phase, evaluated, loaded by transformers, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import untaught as ut
from untaught.pipeline.pretrained import load_encoder

soundfile = pytest.importorskip("soundfile")
SMALL: dict[str, Any] = {"encoder.width": 16, "encoder.depth": 2, "encoder.heads": 2, "encoder.channels": 4, "batch_size": 8}
FEW = {"evaluate_every": 0, "health_every": 0, "log_every": 1}


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
    run = ut.pretrain(tones, method="wav2vec2", out=tmp_path / "a", steps=2, codes=8, **SMALL, **FEW)
    found = load_encoder(run.path)
    assert found.prep.settings["input"] == "waveform"
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").open()]
    assert {"contrastive", "diversity", "penalty", "accuracy", "code_perplexity"} <= rows[0].keys()
    from transformers import AutoFeatureExtractor, AutoModel

    folder = run.path / "encoder"
    wave, rate = soundfile.read(next((tones / "250").glob("*.wav")), dtype="float32")
    given = AutoFeatureExtractor.from_pretrained(folder)(wave, sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        theirs = AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state.mean(1)[0]
    own = torch.from_numpy(np.asarray(ut.embed(run.path, str(next((tones / "250").glob("*.wav"))))))[0].float()
    assert torch.nn.functional.cosine_similarity(own, theirs, dim=0) > 0.999  # ours in bfloat16 where the machine has it
    again = ut.pretrain(tones, method="hubert", encoder=str(run.path), out=tmp_path / "b", steps=1, units=4, batch_size=8, **FEW)
    assert load_encoder(again.path).network.width == 16


def test_huberts_second_phase_is_resumed_bit_for_bit(tones: Path, tmp_path: Path) -> None:
    knobs = {"units": 4, "later_units": 3, "save_every": 1, **SMALL, **FEW}
    whole = ut.pretrain(tones, method="hubert", out=tmp_path / "whole", epochs=3, **knobs)
    rows = [json.loads(line) for line in (whole.path / "metrics.jsonl").open()]
    assert len(rows) == 3 * (rows[-1]["step"] // 3)
    state = load_encoder(whole.path).network.state_dict()
    part = ut.pretrain(tones, method="hubert", out=tmp_path / "part", epochs=3, **knobs)
    import shutil

    kept = sorted((part.path / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    for later in kept[1:]:
        shutil.rmtree(later)
    shutil.rmtree(part.path / "encoder")
    again = ut.pretrain(None, out=part.path, resume=True)
    assert all(torch.equal(value, state[name]) for name, value in load_encoder(again.path).network.state_dict().items())
