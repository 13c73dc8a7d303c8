"""BERT's masked language model. Devlin, Chang, Lee, Toutanova, NAACL 2019. https://arxiv.org/abs/1810.04805

Views:  one, 15% of its tokens to be said again; of these 80% are shown as a mask, 10% as another token, 10% as they were (section 3.1).
Heads:  the encoder's own: a linear layer, GELU and LayerNorm, then the embedding's weights and a bias a word (appendix A.2 and code).
Loss:   cross-entropy of the hidden tokens alone.
Differs from the paper: tokens are masked anew in every epoch (as RoBERTa's, Liu et al. 2019, section 4.1; masked_tokens.versions=10
gives BERT's ten versions of a sample), samples are runs of the stream, and there is no next-sentence task, which RoBERTa found to do
nothing (section 4.2).
"""

from __future__ import annotations

from typing import Any

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.cross_entropy import mean_cross_entropy


class MLM(Method):
    views = ("masked_tokens",)
    needs = frozenset({"tokens", "bidirectional", "words"})

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.words = encoder.words()

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        assert view.meta is not None
        at = view.meta["places"]  # scores are made where the loss looks, and nowhere else
        counted = view.mask.gather(1, at)
        hidden, weight, bias = self.words.parts(self.encoder.tokens_at(view, at))
        return {"masked_tokens": mean_cross_entropy(hidden, weight, bias, view.target.gather(1, at), counted)}

    def hf_model(self) -> Any:
        return self.encoder.language  # type: ignore[return-value]
