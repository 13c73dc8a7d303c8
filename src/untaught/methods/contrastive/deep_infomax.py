"""Deep InfoMax. Hjelm, Fedorov, Lavoie-Marchildon, Grewal, Bachman, Trischler, Bengio, ICLR 2019. https://arxiv.org/abs/1808.06670

Views:  one light crop and flip.
Heads:  a linear layer to a 64-dimensional summary; networks with one hidden layer and a shortcut that project the summary and the
        vectors of a feature map into a shared space, where their dot product is the score; a critic with 1000 and 200 hidden units.
        All are discarded after training.
Loss:   beta 1 times the local term (equation 6): the Jensen-Shannon estimator (equation 4) raises the score of an image's summary
        with each position of its own map and lowers it with those of other images; gamma 0.1 times prior matching (equation 7): a
        critic discriminates the sigmoid of the summaries from uniform noise, and the encoder is trained to fool it. These weights
        are the paper's DIM(L); DIM(G), alpha 1, beta 0 and gamma 1, scores the summary with the full map (equation 3).
The map is the second to last, if there are several (8 x 8 for 32-pixel images, as in the paper). The shared space is as wide as the
encoder; the authors' has 1024, like their encoder's last hidden layer. As in their code, the encoder minimises the non-saturating
loss against the critic. The paper's other estimators (InfoNCE, Donsker-Varadhan) are not implemented.
The authors' gradient penalty on the critic is not implemented; their critic has an optimizer of its own.
The exported encoder ends at its pooled vectors; the summary is a linear map of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from untaught.blocks.maps import map_shapes, pooled_and_maps
from untaught.blocks.mlp import mlp
from untaught.core import Encoder, Facts, Method, Terms, UserError, View
from untaught.ops.contrastive import jensen_shannon
from untaught.ops.counter_rng import CounterRNG
from untaught.ops.gather import rank, world_size
from untaught.ranges import Size, Weight, in_range


class Bridge(nn.Module):
    """x (...,D) -> (...,E): a hidden layer with BatchNorm, and a shortcut initialised near the identity, as in the authors' code."""

    def __init__(self, inside: int, outside: int, normed: bool) -> None:
        super().__init__()
        self.block, self.shortcut = mlp(inside, outside, outside), nn.Linear(inside, outside)
        nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
        with torch.no_grad():
            self.shortcut.weight.fill_diagonal_(1.0)
        self.norm = nn.LayerNorm(outside) if normed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.block(x.flatten(0, -2)).unflatten(0, x.shape[:-1]) + self.shortcut(x))


class DeepInfoMax(Method):
    views = ("light",)
    needs = frozenset({"maps"})
    paper = {"optimizer": "adam", "lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    step: Tensor  # () int64, steps taken

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        alpha: Weight = 0.0,  # weight of the global term: the summary with the full map
        beta: Weight = 1.0,  # weight of the local term: the summary with each position of the map
        gamma: Weight = 0.1,  # weight of prior matching: summaries distributed like uniform noise
        units: Size | None = None,  # dimensions of the shared space of the scores; the encoder's width if none
        width: Size = 64,  # dimensions of the summary
    ) -> None:
        super().__init__()
        inside, height, across = map_shapes(encoder, next(iter(facts.views.values())))[-2:][0]
        units = encoder.width if units is None else units
        if not alpha and not beta:
            raise UserError("alpha=0 and beta=0: the global or the local term must have a weight above 0")
        self.encoder, self.summary, self.seed = encoder, nn.Linear(encoder.width, width), facts.seed
        if beta:
            self.local_summary, self.local_map = Bridge(width, units, normed=False), Bridge(inside, units, normed=True)
        if alpha:
            self.global_summary, self.global_map = Bridge(width, units, normed=False), Bridge(inside * height * across, units, normed=True)
        if gamma:
            layers = nn.Linear(width, 1000), nn.ReLU(), nn.Linear(1000, 200), nn.ReLU(), nn.Linear(200, 1)
            self.critic = nn.Sequential(*layers, nn.Flatten(0))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def forward(self, views: list[View], progress: float) -> Terms:
        pooled, maps = pooled_and_maps(self.encoder, views[0])
        summary, vectors = self.summary(pooled), maps[-2:][0]
        terms: Terms = {}
        if self.beta:
            terms["local"] = self.beta * jensen_shannon(self.local_summary(summary), self.local_map(vectors))
        if self.alpha:
            terms["global"] = self.alpha * jensen_shannon(self.global_summary(summary), self.global_map(vectors.flatten(1).unsqueeze(1)))
        if self.gamma:
            seen, noise = summary.float().sigmoid(), self.noise(summary)
            still = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
            terms["prior"] = self.gamma * F.softplus(-functional_call(self.critic, still, seen).float()).mean()
            terms["critic"] = F.softplus(-self.critic(noise).float()).mean() + F.softplus(self.critic(seen.detach()).float()).mean()
        return terms

    def noise(self, summary: Tensor) -> Tensor:
        """Uniform in 0..1, different for every step and sample of the gathered batch: (B,width) float32."""
        sample = torch.arange(len(summary), device=summary.device) * world_size() + rank()
        return CounterRNG(self.seed, 0, (self.step << 32) + sample, 0).uniform(summary.shape[1])

    def after_step(self, progress: float) -> None:
        self.step += 1
