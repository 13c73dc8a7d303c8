"""BART, denoising sequence-to-sequence pretraining. Lewis, Liu, Goyal, Ghazvininejad et al., ACL 2020. https://arxiv.org/abs/1910.13461

Views:  one, corrupted: sentences shuffled, and spans of tokens each replaced by a single mask token (sections 2.2 and 5.1).
Heads:  the encoder's own decoder, with cross-attention to the corrupted text and the target shifted right as input, and the
        language-model head, tied to the token embedding.
Loss:   cross-entropy of every token of the original text given those before it (section 2.2).
Differs from the paper: samples are segments of the token stream, and spans are drawn independently, so that the share of masked
tokens is right on average, not in every sample. The settings of the authors' training were never published.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.cross_entropy import mean_cross_entropy


class Seq2SeqDenoising(Method):
    views = ("infilled",)
    needs = frozenset({"tokens", "words", "decoder"})

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.words = encoder.words()

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        memory = self.encoder.features(view, want=("tokens",)).tokens
        assert memory is not None
        shifted = F.pad(view.target[:, :-1], (1, 0), value=self.encoder.start)
        hidden, weight, bias = self.words.parts(self.encoder.decode(shifted, memory, view.valid))
        return {"undamaged_tokens": mean_cross_entropy(hidden, weight, bias, view.target, view.target_valid)}

    def hf_model(self) -> Any:
        return self.encoder.language  # type: ignore[return-value]
