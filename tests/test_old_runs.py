"""Runs, encoders and models that version 0.1.0 wrote open, score the same, go on, and are exported.

tests/old_runs/ holds `pretrain builtin:digits --method simclr` (4 steps, killed after step 2; and a model fine-tuned from it) and
`pretrain builtin:topics --modality text --method mlm` of that version, less what a report shows.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import untaught as ut

OLD = Path(__file__).parent / "old_runs"


@pytest.fixture(params=["simclr", "mlm"])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return shutil.copytree(OLD / request.param, tmp_path / request.param)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "model.safetensors")


def data_of(run: Path) -> str:
    return {"simclr": "builtin:digits", "mlm": "builtin:topics"}[run.name]


def test_it_opens_and_embeds(old: Path) -> None:
    run = ut.load(old)
    vectors = run.embed(data_of(old))
    assert vectors.shape[1] == run.encoder.width
    assert np.isfinite(vectors).all()
    assert (ut.load(old / "encoder").embed(data_of(old)) == vectors).all()


def test_its_scores_are_found_again(tmp_path: Path) -> None:
    run = shutil.copytree(OLD / "simclr", tmp_path / "run")
    then = {key_of(row): row["mean"] for row in ut.load(run).scores if row["probe"] != "finetune"}
    assert len(then) > 5
    now = {key_of(row): row["mean"] for row in ut.evaluate(run)}
    for key, mean in then.items():
        assert now[key] == pytest.approx(mean, abs=0.01), key


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[key]) for key in ("features", "probe", "labels", "metric"))


def test_it_goes_on_to_the_weights_it_had(old: Path) -> None:
    then = weights(old)
    ut.pretrain(out=old, resume=True)
    now = weights(old)
    assert now.keys() == then.keys()
    away = torch.cat([(value - then[name]).abs().flatten() for name, value in now.items()])
    # where a gradient is noise, AdamW takes a step of one length in either direction; Python versions differ in builtin:topics
    assert (away > 2e-3).float().mean() < 0.1
    assert away.max() < 2e-2
    assert json.loads((old / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_it_is_exported_and_reported(old: Path) -> None:
    assert ut.load(old).export("torch" if old.name == "simclr" else None, data_of(old)).deviation < 1e-4
    assert ut.load(old).report().exists()


def test_its_model_predicts() -> None:
    table = ut.load(OLD / "simclr" / "finetuned").predict("builtin:digits")
    assert len(table) == 1797
    assert np.allclose(table.filter(like="p_").sum(axis=1), 1, atol=1e-4)
