"""Defaults against the papers and the authors' code: a number that is wrong here is wrong in every run."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

from untaught.config.registry import method_class
from untaught.config.train_config import TrainConfig
from untaught.modalities.audio.presets import VIEWS

PAPERS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.1, "width": 128},  # table 5; 2-layer projection to 128
    "moco": {"temperature": 0.2, "width": 128},  # v2, table 2
    "mocov3": {"temperature": 0.2, "momentum": 0.99, "width": 256},  # section 4 and the authors' code
    "nnclr": {"temperature": 0.1, "width": 256},  # section 4.1
    "dcl": {"temperature": 0.1, "weighted": False, "sigma": 0.5},  # section 4
    "cpc": {"rows": 5},  # up to five rows below
    "deep_infomax": {"alpha": 0.0, "beta": 1.0, "gamma": 0.1, "width": 64},  # DIM(L)
    "byol": {"width": 256},  # section 3.3
    "dino": {"temperature": 0.1, "centre_momentum": 0.9, "bottleneck": 256},  # section 3.2
    "ibot": {"temperature": 0.1, "centre_momentum": 0.9, "bottleneck": 256},
    "dinov2": {"temperature": 0.1, "koleo": 0.1, "bottleneck": 256},
    "msn": {"temperature": 0.1, "sharpening": 0.25, "me_max": 1.0, "sinkhorn": 3, "prototypes": 1024, "width": 256},
    "data2vec": {"beta": 2.0},  # the authors' command for ViT-B
    "barlow_twins": {"redundancy": 0.005},  # section 2.2
    "vicreg": {"invariance": 25.0, "variance": 25.0, "covariance": 1.0},  # section 4.2
    "vicregl": {"alpha": 0.75, "invariance": 25.0, "variance": 25.0, "covariance": 1.0, "local_width": 512},
    "w_mse": {"width": 64, "hidden": 1024},  # appendix, small images
    "lejepa": {"regularisation": 0.05, "directions": 256, "width": 16},  # the authors' minimal example
    "swav": {"temperature": 0.1, "epsilon": 0.05, "iterations": 3, "width": 128},  # section 4 and appendix A
    "deepcluster": {"temperature": 0.1, "clusterings": 3, "iterations": 10, "width": 128},  # the SwAV paper's appendix and code
    "bigan": {"width": 50, "maps": 64},  # section 4.2; the authors' code
    "mae": {"normalise": None},  # table 1d: on, unless the view marks its tokens as too small
    "replaced_token": {"discrimination": 50.0},  # section 2
    "wav2vec2": {  # fairseq, wav2vec2_base_librispeech.yaml and the defaults of Wav2Vec2Config
        "groups": 2,
        "codes": 320,
        "code_width": 256,
        "width": 256,
        "negatives": 100,
        "temperature": 0.1,
        "diversity": 0.1,
        "penalty": 10.0,
        "distinct": True,
        "relaxation": (2.0, 0.5),
        "gradient": 0.1,
    },
    "hubert": {  # fairseq, hubert_base_librispeech.yaml; numbers of units from section IV
        "units": 100,
        "later_units": 500,
        "phases": 2,
        "masked": 1.0,
        "temperature": 0.1,
        "width": 256,
        "penalty": 10.0,
        "gradient": 0.1,
    },
}
ADAM = {"optimizer": "adamw", "lr": 5e-4, "betas": (0.9, 0.98), "weight_decay": 0.01, "schedule": "linear"}
TRAINING: dict[
    str, dict[str, Any]
] = {  # fairseq's yaml files: warm-up of 32,000 of 400,000 updates, spans of 10 that begin at mask_prob / 10
    "wav2vec2": {**ADAM, "warmup": 32 / 400, "clip": 0.0, "spans.starts": 0.065, "spans.length": 10},
    "hubert": {**ADAM, "warmup": 32 / 400, "clip": 10.0, "feature_spans.starts": 0.08, "feature_spans.length": 10},
}


@pytest.mark.parametrize("name", PAPERS)
def test_defaults_are_the_papers(name: str) -> None:
    knobs = inspect.signature(method_class(name)).parameters
    assert {knob: knobs[knob].default for knob in PAPERS[name]} == PAPERS[name]


@pytest.mark.parametrize("name", TRAINING)
def test_training_of_speech_models_is_the_authors(name: str) -> None:
    method, (view,) = method_class(name), method_class(name).views
    ours = {"clip": TrainConfig().clip, **{f"{view}.{key}": value for key, value in VIEWS[view].items()}, **method.paper}
    assert {key: ours[key] for key in TRAINING[name]} == TRAINING[name]


def test_codes_of_wav2vec2_harden_as_the_authors() -> None:
    """Its temperature falls by 0.999995 an update until 0.5, of 400,000 (Wav2Vec2Config, latent_temp)."""
    share = inspect.signature(method_class("wav2vec2")).parameters["relaxation_share"].default
    assert share == pytest.approx(math.log(0.5 / 2) / math.log(0.999995) / 400_000, abs=0.005)
