"""ELECTRA, replaced token detection. Clark, Luong, Le, Manning, ICLR 2020. https://arxiv.org/abs/2003.10555

Views:  one with 15% of its tokens masked, as in masked language modelling.
Heads:  a generator with a masked-language-model head, whose samples replace the masked tokens; and, on the encoder (the
        discriminator), a linear layer, GELU and a linear logit per token: original or replaced? Both are discarded after training.
Loss:   the generator's cross-entropy on the masked tokens, plus 50 times the binary cross-entropy on all tokens (section 2). A token
        that the generator predicts correctly counts as original. No gradient flows through the sampling (section 2).
Differs from the paper: the generator has a quarter of the blocks at full width, where the paper's has all blocks at a quarter to
a half of the width (section 3.2); the two share token embeddings, but not position embeddings. The view replaces 80% of the masked
tokens by the mask token and 10% by a random token, and leaves 10% unchanged; masked_tokens.mask=1 masked_tokens.random=0 is the
paper's (the authors' code: 85%). Samples are drawn by a hash of the sample index and its masked tokens, not by a stateful random generator.
The learning rate is ELECTRA-small's for 128 sequences of 128 tokens (larger models: 2e-4).
The discriminator is exported, as in the paper. The Hugging Face model is the generator, which can fill in masked tokens.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.cross_entropy import mean_cross_entropy
from untaught.ops.masking import masked_mean
from untaught.ops.reconstruction import replaced_token_detection
from untaught.ops.sampling import linear_sample
from untaught.ranges import Weight, Within, in_range


class ReplacedToken(Method):
    views = ("masked_tokens",)
    needs = frozenset({"tokens", "bidirectional", "words"})
    paper = {"optimizer": "adamw", "lr": 5e-4, "weight_decay": 0.01, "clip": 1.0, "schedule": "linear", "warmup": 0.01}

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        generator: Annotated[float, Within(1e-3, 1)] = 0.25,  # depth of the generator, as a share of the encoder's blocks
        discrimination: Weight = 50.0,  # weight of the discriminator's loss
    ) -> None:
        super().__init__()
        self.encoder, self.seed = encoder, facts.seed
        self.generator = encoder.shallower(generator)
        self.words = self.generator.words()
        self.discriminator = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.GELU(), nn.Linear(encoder.width, 1))
        self.discrimination = discrimination

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.target is not None
        assert view.meta is not None
        at = view.meta["places"]
        counted = view.mask.gather(1, at)
        hidden, weight, bias = self.words.parts(self.generator.tokens_at(view, at))
        original = view.target.gather(1, at)
        generation = mean_cross_entropy(hidden, weight, bias, original, counted)
        sampled = linear_sample(hidden.flatten(0, 1), weight, bias, uniform(view, at.shape[1], self.seed).flatten()).view_as(original)

        filled = view.target.scatter(1, at, torch.where(counted, sampled, original))
        tokens = self.encoder.features(View(filled, view.valid), want=("tokens",)).tokens
        assert tokens is not None
        score = self.discriminator(tokens).squeeze(2).float()
        replaced = (filled != view.target).float()
        valid = torch.ones_like(view.mask) if view.valid is None else view.valid
        return {
            "generation": generation,
            "discrimination": self.discrimination * replaced_token_detection(score, replaced, valid),
            "replaced": masked_mean(replaced, valid),
        }

    def hf_model(self) -> Any:
        return getattr(self.generator, "language", None)  # a transformers model, of texts


def uniform(view: View, count: int, seed: int) -> Tensor:
    """(B,count) in [0, 1): the same for a sample with the same tokens masked, whatever the padding."""
    assert view.mask is not None
    assert view.meta is not None
    positions = torch.arange(1, view.x.shape[1] + 1, device=view.x.device)
    key = (view.mask * positions * (positions + view.x)).sum(1)
    return CounterRNG(seed, 0, view.meta["index"] + (key << 32), 0).uniform(count)
