"""GPT's causal language model. Radford, Narasimhan, Salimans, Sutskever 2018. https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf

Views:  one segment of the token stream, and the next token at each position.
Heads:  the encoder's language-model head, tied to the token embedding (equation 2).
Loss:   cross-entropy of every token given those before it (equation 1).
The learning rate is for 64 segments of 512 tokens.
With `negatives`, the softmax is over the next token and so many others, drawn anew in each step from a log-uniform distribution over a
vocabulary in order of falling frequency, with logQ correction: for catalogues of items too large for all scores.
"""

from __future__ import annotations

from typing import Any

import torch

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.cross_entropy import mean_cross_entropy
from untaught.ops.sampled_softmax import log_uniform, sampled_cross_entropy
from untaught.ranges import Count, in_range


class CLM(Method):
    views = ("next_tokens",)
    needs = frozenset({"tokens", "causal", "words"})
    paper = {"optimizer": "adamw", "lr": 2.5e-4, "weight_decay": 0.01, "warmup": 0.001}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        negatives: Count = 0,  # words of a sampled softmax; 0: all words
    ) -> None:
        super().__init__()
        self.encoder, self.negatives = encoder, negatives
        self.words = encoder.words()

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        tokens = self.encoder.features(view, want=("tokens",)).tokens
        assert tokens is not None
        hidden, weight, bias = self.words.parts(tokens)
        if self.negatives:
            drawn, log_q = log_uniform(torch.rand(self.negatives, device=hidden.device), len(weight))
            counted = torch.ones_like(view.target, dtype=torch.bool) if view.target_valid is None else view.target_valid
            flat = (hidden.flatten(0, -2), weight, bias, view.target.flatten(), counted.flatten())
            return {"next_tokens": sampled_cross_entropy(*flat, drawn, log_q)}
        return {"next_tokens": mean_cross_entropy(hidden, weight, bias, view.target, view.target_valid)}

    def hf_model(self) -> Any:
        return getattr(self.encoder, "language", None)  # a transformers model, of texts
