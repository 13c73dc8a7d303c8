"""BERT's masked language model. Devlin, Chang, Lee, Toutanova, NAACL 2019. https://arxiv.org/abs/1810.04805

Views:  one with 15% of its tokens to predict, of which 80% are replaced by the mask token, 10% by a random token, and 10% are left
        unchanged (section 3.1).
Heads:  the encoder's masked-language-model head: a linear layer, GELU and LayerNorm, then the tied embedding weights and a bias per
        token of the vocabulary (appendix A.2 and code).
Loss:   cross-entropy of the tokens to predict.
Differs from the paper: masking is dynamic, redrawn in every epoch (as in RoBERTa, Liu et al. 2019, section 4.1;
masked_tokens.versions=10 gives BERT's ten versions of each sample), samples are segments of the token stream, and there is no
next-sentence prediction, which RoBERTa found not to help (section 4.2). BERT's Adam has no bias correction; its learning rate is for
256 sequences of up to 512 tokens.
"""

from __future__ import annotations

from typing import Any

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.cross_entropy import mean_cross_entropy


class MLM(Method):
    views = ("masked_tokens",)
    needs = frozenset({"tokens", "bidirectional", "words"})
    paper = {"optimizer": "adamw", "lr": 1e-4, "weight_decay": 0.01, "clip": 1.0, "schedule": "linear", "warmup": 0.01}

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        self.words = encoder.words()

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        assert view.meta is not None
        at = view.meta["places"]  # logits only where the loss needs them
        counted = view.mask.gather(1, at)
        hidden, weight, bias = self.words.parts(self.encoder.tokens_at(view, at))
        return {"masked_tokens": mean_cross_entropy(hidden, weight, bias, view.target.gather(1, at), counted)}

    def hf_model(self) -> Any:
        return getattr(self.encoder, "language", None)  # a transformers model, of texts
