"""NEPA, next-embedding prediction. Xu, Ma, Chai, Chen, Jin, Chai, Xie, Yu 2025. https://arxiv.org/abs/2512.16922

Views:  one crop, flipped or not (the authors' code: torchvision's random crop of 8% to 100% of a photograph).
Heads:  none. The encoder's output at a token is its prediction.
Loss:   the mean negative cosine similarity between the causal encoder's output at each token and the embedding of the next token: the
        patch projection's, without position, through which no gradient flows as a target.
The embeddings are both the encoder's input, from which their gradient comes, and the targets.
Settings are those of the authors' script for ViT-B on ImageNet (batches of 4096, 1600 epochs).
Differs from the authors' code: their sequence begins with a class token, which predicts the first patch; here the first patch is not
predicted. Their transformer has rotary positions, normalised queries and keys, and layer scale; here it is the encoder's.
The encoder is exported as trained, causal, with its outputs averaged over the tokens.
"""

from __future__ import annotations

from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.cosine import next_cosine


class NEPA(Method):
    views = ("light",)
    needs = frozenset({"tokens", "causal"})
    paper = {"optimizer": "adamw", "base_lr": 3e-4, "betas": (0.9, 0.95), "weight_decay": 0.05, "warmup": 0.025}
    view_presets = {"photo": {"light.scale": (0.08, 1.0)}}

    def __init__(self, encoder: Encoder, facts: Facts) -> None:
        super().__init__()
        self.encoder = encoder
        tokens, _ = encoder.embed(next(iter(facts.views.values())))
        if tokens.shape[1] < 2:
            raise UserError("nepa predicts the next token, but a view is a single one; choose a larger size or a smaller patch")

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        embedded, valid = self.encoder.embed(view)
        predicted = self.encoder.context(embedded, valid, causal=True).tokens
        assert predicted is not None
        return {"next_embedding": next_cosine(predicted, embedded, valid)}
