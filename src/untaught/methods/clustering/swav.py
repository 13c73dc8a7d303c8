"""SwAV, swapping assignments between views. Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020. https://arxiv.org/abs/2006.09882

Views:  two large crops and six small ones (multi-crop).
Heads:  a projector of one hidden layer to 128 units of length 1, and prototypes of length 1; both thrown away after training. The
        paper's 2048 hidden units are its ResNet-50's width; so is the default here.
Loss:   cross-entropy between the soft assignment of each large crop to the prototypes, of which each gets an equal share of the
        batch (Sinkhorn-Knopp, three iterations), and the prediction from every other crop (equations 1 to 6), averaged over
        pairs of crops and the batch.
There are 3000 prototypes, as in the paper, or fewer where the data is small: one for 20 samples, at least 1024.
A queue of past batches takes part in the equal shares, as in the paper's runs of batch 256, where 3840 vectors join 15 epochs
after the start; here they join after `queue_start` of the training. The prototypes stand still in the first hundredth of the
training (the authors' runs of 100 epochs: one).
Crops of one size pass through the network together, as in the authors' code, so BatchNorm sees them together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.mlp import mlp
from untaught.blocks.prototypes import prototypes_for
from untaught.blocks.queue import Queue
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.ops.gather import gather, rank, world_size
from untaught.ops.self_distillation import swapped_prediction
from untaught.ops.sinkhorn import sinkhorn
from untaught.ranges import Count, Few, Positive, Share, Size, Start, in_range

LARGE = 2  # views that are assigned: the first ones


class SwAV(Method):
    views = ("global", "global", *("local",) * 6)

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.1,  # of the prediction's softmax
        epsilon: Positive = 0.05,  # of the assignment: the lower, the nearer to one prototype a sample
        iterations: Few = 3,  # of Sinkhorn-Knopp
        prototypes: Size | None = None,  # directions that samples are told by; one for 20 of them, from 1024 to 3000, if none
        frozen: Start = 0.01,  # share of the training, from its start, in which the prototypes stand still
        queue: Count | None = None,  # past vectors that share in the assignment; 3840, or the data's rows if fewer, if none; 0 is off
        queue_start: Share = 0.1,  # share of the training before they do
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
        seen = torch.cat([self.encoder(View.cat(views[:LARGE])), self.encoder(View.cat(views[LARGE:]))])
        return list(F.normalize(self.projector(seen).float()).chunk(len(views)))

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

    def assigned(self, z: Tensor, progress: float) -> Tensor:
        """z (T,B,D) -> (T,B,K), a distribution a sample. Each process brings its share of the queue."""
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
