"""Encoders of text go to a folder and back, into transformers too: also one that holds its embedding under three names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import text_batch, text_prep

from untaught.config.registry import build_encoder
from untaught.core import Encoder, UserError, View
from untaught.pipeline.pretrained import load_encoder, save_encoder

KNOBS = {"width": "32", "depth": "2", "heads": "2"}


def saved(family: str, folder: Path) -> Encoder:
    torch.manual_seed(0)
    prep = text_prep()
    encoder = build_encoder(family, prep.encoder_arguments, dict(KNOBS))
    save_encoder(encoder, folder, {"encoder": family, "encoder_knobs": KNOBS, "view": "whole"}, prep)
    return encoder.eval()


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt", "llama", "bart"])
def test_an_encoder_of_text_goes_round(family: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = tmp_path / "encoder"
    encoder, batch = saved(family, folder), text_batch()
    ids, valid = batch["ids"].long(), batch["ids_valid"]
    own = load_encoder(folder)[0]
    assert torch.equal(own(View(ids, valid)), encoder(View(ids, valid)))
    theirs: Any = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    body = theirs.get_encoder() if family == "bart" else theirs
    want = encoder.features(View(ids, valid), want=("tokens",)).tokens
    torch.testing.assert_close(body(input_ids=ids, attention_mask=valid.long()).last_hidden_state, want)


@pytest.mark.parametrize("change", ["missing", "too many"])
def test_weights_that_are_not_all_or_too_many_are_refused(change: str, tmp_path: Path) -> None:
    saved("bart", tmp_path / "encoder")
    path = tmp_path / "encoder" / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "layer_norm" in name)
    weights = {k: v for k, v in weights.items() if k != name} if change == "missing" else {**weights, "more": torch.zeros(1)}
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="its weights do not match bart"):
        load_encoder(tmp_path / "encoder")
