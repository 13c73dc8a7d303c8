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


def test_masks_are_filled_with_words_and_never_with_special_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, specials = 3, [0, 1, 2, 3]
    logits = torch.zeros(1, 4, 10)
    logits[0, 1, [0, 3, 7, 5]] = torch.tensor([9.0, 8.0, 2.0, 1.0])  # padding and the mask itself are likeliest
    logits[0, 2, [4, 6]] = torch.tensor([3.0, 2.0])
    fills = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False, max_position_embeddings=16, model_type="bert"))
    model = type("Filling", (), {"config": fills.config, "__call__": lambda self, input_ids: SimpleNamespace(logits=logits)})()
    tokenizer = type(
        "Words",
        (),
        {
            "mask_token_id": mask,
            "mask_token": "[MASK]",
            "all_special_ids": specials,
            "__call__": lambda self, text, **how: SimpleNamespace(input_ids=torch.tensor([[8, mask, mask, 9]])),
            "decode": lambda self, ids: f"word{ids[0]}",
        },
    )()
    monkeypatch.setattr(module, "can_generate", lambda run: True)
    monkeypatch.setattr(module, "_load", lambda folder: (model, tokenizer))
    found = module.generate(Path(), "a [MASK] [MASK] b", best=2)
    chances = logits[0].softmax(-1)
    assert [(row["mask"], row["word"], row["probability"]) for row in found] == [
        *((1, f"word{word}", pytest.approx(chances[1, word].item(), abs=1e-4)) for word in (7, 5)),
        *((2, f"word{word}", pytest.approx(chances[2, word].item(), abs=1e-4)) for word in (4, 6)),
    ]
