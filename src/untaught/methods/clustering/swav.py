"""SwAV, swapping assignments between views. Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020. https://arxiv.org/abs/2006.09882

Views:  two large crops and six small ones (multi-crop).
Heads:  a projector with one hidden layer to 128 L2-normalised units, and L2-normalised prototypes; both discarded after training. The
        paper's 2048 hidden units are its ResNet-50's width, as is the default here.
Loss:   cross-entropy between the soft assignment of each large crop to the prototypes, balanced so that each prototype gets an equal
        share of the batch (Sinkhorn-Knopp, three iterations), and the prediction from every other crop (equations 1 to 6), averaged
        over pairs of crops and the batch.
There are 3000 prototypes, as in the paper, or fewer for small data: one per 20 samples, at least 1024.
A queue of past projections is included in the balanced assignment, as in the paper's runs with batch 256, where 3840 vectors are
included from epoch 15; here they are included from `queue_start` of the training. The prototypes are frozen for the first hundredth
of the training (the authors: for one epoch of 100).
Crops of one size go through the network in one batch, as in the authors' code, and share BatchNorm statistics.
The authors' optimizer is SGD with LARC, which adapts and decays all parameters; LARS here leaves out biases and norms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.mlp import mlp
from untaught.blocks.prototypes import prototypes_for
from untaught.blocks.queue import Queue
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import photo
from untaught.ops.gather import gather, rank, world_size
from untaught.ops.self_distillation import swapped_prediction
from untaught.ops.sinkhorn import sinkhorn
from untaught.ranges import Count, Few, Positive, Share, Size, Start, in_range

LARGE = 2  # views that get an assignment: the first ones


class SwAV(Method):
    views = ("global", "global", *("local",) * 6)
    multicrop = "local"
    paper = {"optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup": 10 / 800}
    view_presets = photo({"global": {"scale": (0.14, 1.0)}, "local": {"scale": (0.05, 0.14)}})

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.1,  # of the prediction's softmax
        epsilon: Positive = 0.05,  # of the assignment; lower is closer to one-hot
        iterations: Few = 3,  # of Sinkhorn-Knopp
        prototypes: Size | None = None,  # number of prototypes; one per 20 samples, from 1024 to 3000, if none
        frozen: Start = 0.01,  # share of the training, from its start, during which the prototypes are frozen
        queue: Count | None = None,  # past vectors in the assignment; 3840, or the number of samples if smaller, if none; 0 is off
        queue_start: Share = 0.1,  # share of the training after which the queue is used
        hidden: Size | None = None,  # units of the projector's hidden layer; the encoder's width if none
        width: Size = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        hidden = encoder.width if hidden is None else hidden
        prototypes = min(3000, prototypes_for(facts.rows)) if prototypes is None else prototypes
        queue = min(3840, facts.rows) if queue is None else queue
        self.encoder = encoder
        self.projector = mlp(encoder.width, hidden, width)
        self.prototypes = nn.Linear(width, prototypes, bias=False)
        self.queues = nn.ModuleList(Queue(queue, width) for _ in range(LARGE if queue else 0))
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.frozen, self.queue_start = frozen, queue_start

    def forward(self, views: list[View], progress: float) -> Terms:
        return self.objective(self.project(views), progress)

    def project(self, views: list[View]) -> list[Tensor]:
        features = torch.cat([self.encoder(View.cat(views[:LARGE])), self.encoder(View.cat(views[LARGE:]))])
        return list(F.normalize(self.projector(features).float()).chunk(len(views)))

    def objective(self, projected: list[Tensor], progress: float) -> Terms:
        z = torch.stack(projected)  # (S,B,D)
        large = z[:LARGE].detach()
        if self.queues:
            self.pending.append(gather(large.transpose(0, 1)))
        return {"cross_entropy": swapped_prediction(self.scores(z), self.assigned(large, progress), self.temperature)}

    def scores(self, z: Tensor) -> Tensor:
        """z (..., D) -> (..., K), cosines to the prototypes."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z, F.normalize(self.prototypes.weight))

    def prototype_scores(self, view: View) -> Tensor:
        return self.scores(F.normalize(self.projector(self.encoder(view)).float()))

    def assigned(self, z: Tensor, progress: float) -> Tensor:
        """z (T,B,D) -> (T,B,K), one distribution per sample. Each process contributes its share of the queue."""
        queues = self.queues if progress >= self.queue_start else ()
        past = [queue.vectors[rank() :: world_size()] for queue in queues]  # type: ignore[index]
        with torch.no_grad():
            joint = torch.cat([z, torch.stack(past)], 1) if past else z
            return torch.stack([sinkhorn(view, self.epsilon, self.iterations) for view in self.scores(joint)])[:, : z.shape[1]]

    def before_step(self, progress: float) -> None:
        if progress < self.frozen:
            self.prototypes.weight.grad = None

    def after_step(self, progress: float) -> None:
        for keys in self.pending:
            for queue, view in zip(self.queues, keys.unbind(1), strict=True):
                queue.push(view)  # type: ignore[operator]
