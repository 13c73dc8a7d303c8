"""wav2vec2. Baevski, Zhou, Mohamed, Auli, NeurIPS 2020. https://arxiv.org/abs/2006.11477

Views:  one part of a recording, spans of whose tokens are masked (the view carries the mask).
Heads:  a linear layer to the scores of `codes` in each of `groups`; a vector for each code; a linear layer from the chosen codes' vectors,
        concatenated, and one from the encoder's tokens to `width` dimensions, in which they are compared. All are discarded after training,
        as is the mask token.
Loss:   at every masked token, InfoNCE (equation 3) of the encoder's output and the quantised local features of the same place, among those
        of `negatives` other masked places of the recording, by cosines at temperature 0.1; plus 0.1 times the diversity of the codes
        (equation 4), plus 10 times the mean square of the local features (section 4.2), whose gradients are scaled by 0.1.
Codes are chosen with Gumbel noise and a straight-through softmax, whose temperature falls from 2 to 0.5 in the first 69% of the training
(the paper: by 0.999995 per update, of 400,000); in eval mode without noise.
The diversity is 1 less the perplexity of the mean softmax over the number of codes, as in the authors' code; equation 4 has the entropy.
The weight of the penalty is from their code too, which leaves out negatives with the same codes as the positive (`distinct`); the paper
does not mention it. Then a quantiser that chooses the same codes everywhere has no negatives and a loss of 0: so training collapses on
little data (50 minutes of speech: to one code per group in 120 steps). Short runs keep these negatives, so that the same codes everywhere
are the worst choice and not the best, and standardise the local features, which at random init hardly differ from frame to frame.
The preset `paper` is the authors' wav2vec2_base_librispeech.yaml, but for Adam's epsilon, torch's 1e-8 (1e-6), and the encoder's dropout, 0
by default (0.1, and 0.05 of whole layers).
"code_perplexity" is logged: the number of codes in use, by the entropy of their frequencies in the batch, summed over groups. "accuracy" is
the share of masked places whose own target is the nearest. Negatives and noise depend on the step and the sample alone.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from untaught.blocks.codes import GroupedCodes
from untaught.blocks.local import HasLocal
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.discrete_codes import code_perplexity, diversity, gumbel, standardised, straight_through
from untaught.ops.masking import mask_tokens, masked_mean, take
from untaught.ops.sampled_negatives import other_places, sampled_info_nce
from untaught.ranges import Few, Positive, Positives, Share, Size, Weight, in_range


class Wav2Vec2(Method):
    views = ("spans",)
    needs = frozenset({"tokens", "local"})
    paper = {
        "optimizer": "adamw",
        "lr": 5e-4,
        "betas": (0.9, 0.98),
        "weight_decay": 0.01,
        "schedule": "linear",
        "warmup": 0.08,
        "spans.scale": (1.0, 1.0),
        "spans.longest": 15.625,  # 250,000 samples
    }
    short = {"codes": 64, "distinct": False, "standardise_features": True, "diversity": 0.3, "penalty": 0.1}
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        groups: Few = 2,  # of codes; one is chosen in each
        codes: Size = 320,  # in a group
        code_width: Size = 256,  # dimensions of the chosen codes' vectors, of all groups together
        width: Size = 256,  # dimensions in which predictions and targets are compared
        negatives: Size = 100,  # places of the same recording, with repetition
        temperature: Positive = 0.1,  # of the contrastive loss
        diversity: Weight = 0.1,  # weight of the diversity of codes
        penalty: Weight = 10.0,  # weight of the mean square of the local features
        distinct: bool = True,  # whether negatives with the codes of the positive are left out
        relaxation: Positives = (2.0, 0.5),  # temperature of the relaxed choice of codes: at first, at last
        relaxation_share: Share = 0.69,  # share of the training in which it falls
        standardise_features: bool = False,  # whether local features are standardised over the batch before codes are chosen
        gradient: Weight = 0.1,  # factor on the gradients of the layers that read the input
    ) -> None:
        super().__init__()
        if code_width % groups:
            raise UserError(f"code_width={code_width}: must be a multiple of its {groups} groups")
        self.encoder, self.seed = encoder, facts.seed
        self.mask = nn.Parameter(torch.rand(encoder.width))
        self.codes = GroupedCodes(cast(HasLocal, encoder).local_width, groups, codes)
        self.vectors = nn.Parameter(torch.rand(groups, codes, code_width // groups))
        self.target, self.predicted = nn.Linear(code_width, width), nn.Linear(encoder.width, width)
        self.negatives, self.temperature, self.distinct = negatives, temperature, distinct
        self.standardise_features = standardise_features
        self.weights, self.gradient = (diversity, penalty), gradient
        self.relaxation, self.relaxation_share = relaxation, relaxation_share
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, views: list[View], progress: float) -> Terms:
        (view,) = views
        assert view.mask is not None
        assert view.meta is not None
        rng = CounterRNG(self.seed, 0, (self.step << 32) + view.meta["index"], 0)
        local = cast(HasLocal, self.encoder).local(view, self.gradient)
        masked = view.mask if local.valid is None else view.mask & local.valid
        tokens = self.encoder.context(mask_tokens(local.tokens, masked, self.mask), local.valid).tokens
        assert tokens is not None
        at = view.meta["places"]
        count, counted = masked.sum(1), masked.gather(1, at)
        counted = counted & (count > 1).unsqueeze(1)  # a single place has no negatives

        features = take(local.normed, at)
        if self.standardise_features:
            features = standardised(features, counted)
        scores = self.codes(features, counted).float()
        noise = gumbel(rng.uniform(*scores.shape[1:])) if self.training else 0.0
        chosen = straight_through(scores + noise, self.relaxed(progress))
        target = torch.einsum("bmgv,gvd->bmgd", chosen, self.vectors).flatten(2)
        others = other_places(rng.uniform(at.shape[1], self.negatives), count)
        same = None
        if self.distinct:
            code = (scores + noise).argmax(-1)
            same = (code.unsqueeze(2) == code.unsqueeze(1)).all(3)
        loss, accuracy = sampled_info_nce(self.predicted(take(tokens, at)), self.target(target), others, counted, self.temperature, same)
        square = local.raw.float().square().mean(2)
        everywhere = torch.ones_like(square, dtype=torch.bool) if local.valid is None else local.valid
        return {
            "contrastive": loss,
            "diversity": self.weights[0] * diversity(scores, counted),
            "penalty": self.weights[1] * masked_mean(torch.where(everywhere, square, 0.0), everywhere),
            "accuracy": accuracy,
            "code_perplexity": code_perplexity(scores.detach(), counted),
        }

    def relaxed(self, progress: float) -> float:
        """The temperature of the relaxed choice, which falls exponentially."""
        first, last = self.relaxation
        return first * (last / first) ** (min(progress / self.relaxation_share, 1.0) if self.relaxation_share else 1.0)

    def after_step(self, progress: float) -> None:
        self.step += 1
