"""GPT's causal language model. Radford, Narasimhan, Salimans, Sutskever 2018. https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf

Views:  one segment of the token stream, and the next token at each position.
Heads:  the encoder's language-model head, tied to the token embedding (equation 2).
Loss:   cross-entropy of every token given those before it (equation 1).
The learning rate is for 64 segments of 512 tokens.
"""

from __future__ import annotations

from typing import Any

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.cross_entropy import mean_cross_entropy


class CLM(Method):
    views = ("next_tokens",)
    needs = frozenset({"tokens", "causal", "words"})
    paper = {"optimizer": "adamw", "lr": 2.5e-4, "weight_decay": 0.01, "warmup": 0.001}

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.words = encoder.words()

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        tokens = self.encoder.features(view, want=("tokens",)).tokens
        assert tokens is not None
        hidden, weight, bias = self.words.parts(tokens)
        return {"next_tokens": mean_cross_entropy(hidden, weight, bias, view.target, view.target_valid)}

    def hf_model(self) -> Any:
        return getattr(self.encoder, "language", None)  # a transformers model, of texts
