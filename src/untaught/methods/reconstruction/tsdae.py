"""TSDAE, a denoising autoencoder of sentences. Wang, Reimers, Gurevych, Findings of EMNLP 2021. https://arxiv.org/abs/2104.06979

Views:  one document with 60% of its tokens deleted, and the original as the target (section 3).
Heads:  a causal transformer decoder with cross-attention to a single vector, the corrupted document's pooled vector; the logits come
        from the encoder's language-model head, tied to the token embedding. The decoder is discarded after training.
Loss:   cross-entropy of every token of the original document given those before it and the vector (equation 1).
Differs from the paper: the decoder is small and separate, with fixed positions, where the paper's is as deep as the encoder and
shares its weights; the vector is the encoder's default pooling, which is the mean over tokens for a language model. The paper starts
from a pretrained BERT, whose learning rate is the one here.
"""

from __future__ import annotations

from untaught.blocks.decoder import Decoder
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.cross_entropy import mean_cross_entropy
from untaught.ranges import Few, in_range


class TSDAE(Method):
    views = ("deleted",)
    needs = frozenset({"tokens", "words"})
    paper = {"optimizer": "adamw", "lr": 3e-5, "weight_decay": 0.0, "clip": 1.0, "schedule": "constant", "warmup": 0.0}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        depth: Few = 2,  # blocks of the decoder
        heads: Few = 4,  # of the decoder's attention; must divide the encoder's width
    ) -> None:
        super().__init__()
        if encoder.width % heads:
            raise UserError(f"heads={heads}: must divide the encoder's width of {encoder.width}")
        self.encoder = encoder
        self.decoder = Decoder(encoder.width, depth, heads)
        self.words = encoder.words()

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.target is not None
        vector = self.encoder(view).unsqueeze(1)
        tokens, _ = self.encoder.embed(View(view.target[:, :-1]))
        target = view.target[:, 1:]  # the first is the tokenizer's class token, if it has one
        counted = None if view.target_valid is None else view.target_valid[:, 1:]
        hidden, weight, bias = self.words.parts(self.decoder(tokens, vector))
        return {"tokens": mean_cross_entropy(hidden, weight, bias, target, counted)}
