"""What a language model goes on with: its likeliest words at temperature 0, else words that are drawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import text_prep

from untaught.config.registry import build_encoder
from untaught.inference import generate as module

PROMPT = [9, 7, 8]


class Numbers:
    """A tokenizer that reads nothing but the prompt, and writes numbers."""

    cls_token_id = sep_token_id = None
    pad_token_id = 0

    def __call__(self, text: str, **how: Any) -> Any:
        return SimpleNamespace(input_ids=torch.tensor([PROMPT]))

    def decode(self, ids: torch.Tensor, skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids.tolist()))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    torch.manual_seed(0)
    encoder: Any = build_encoder("gpt", text_prep().encoder_arguments, {"width": "32", "depth": "1", "heads": "2"})
    language = encoder.language.eval()
    language.config.eos_token_id = language.generation_config.eos_token_id = None
    monkeypatch.setattr(module, "can_generate", lambda run: True)
    monkeypatch.setattr(module, "_load", lambda folder: (language, Numbers()))
    return language


def test_at_temperature_0_every_word_is_the_likeliest(model: Any) -> None:
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    want = [{"text": " ".join(map(str, ids[0].tolist()))}]
    for seed in (0, 1):
        assert module.generate(Path(), "a prompt", tokens=6, temperature=0, seed=seed) == want
    drawn = [module.generate(Path(), "a prompt", tokens=6, temperature=1, seed=seed) for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]
