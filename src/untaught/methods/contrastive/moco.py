"""MoCo v2, momentum contrast. Chen, Fan, Girshick, He 2020. https://arxiv.org/abs/2003.04297
after MoCo, He, Fan, Wu, Xie, Girshick, CVPR 2020, https://arxiv.org/abs/1911.05722

Views:  two strong augmentations of the same sample: one for the query, one for the key.
Heads:  an MLP with one hidden layer as wide as the encoder and ReLU to 128, discarded after training.
Loss:   InfoNCE (equation 1 of MoCo): the positive is the query's key, the negatives are a queue of keys of past batches.
        Temperature 0.2.
Keys come from a copy of encoder and head whose parameters are a moving average of the query network's, with momentum 0.999; in short
runs 0.99, since over a few hundred steps a slower copy barely leaves its initialisation.
The papers' queue of 65,536 holds a twentieth of ImageNet; the default here is a twentieth of the data, at least 256, so that few
negatives are the sample's own keys of the previous epoch.
Differs from the papers: no shuffling BatchNorm. The papers shuffle samples between processes for the keys, so that the statistics of
a query and of its key come from different samples and leak nothing. Here both come from the full batch of all processes. The authors'
code decays all parameters, here biases and norms are not decayed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from untaught.blocks.queue import Queue
from untaught.blocks.teacher import Teacher
from untaught.core import Encoder, Facts, Method, Terms, View
from untaught.methods.photo import MOCO, photo
from untaught.ops.contrastive import queue_info_nce
from untaught.ops.gather import gather
from untaught.ranges import Positive, Share, Size, in_range


class MoCo(Method):
    views = ("global", "global")
    paper = {"optimizer": "momentum", "base_lr": 0.03, "weight_decay": 1e-4, "warmup": 0.0}
    short = {"momentum": 0.99}
    view_presets = photo({"global": MOCO | {"scale": (0.2, 1.0)}})

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.2,  # divides the cosines; lower values emphasise hard negatives
        momentum: Share = 0.999,  # of the moving average that is the key network
        queue: Size | None = None,  # keys of past batches; a twentieth of the data, from 256 to 65,536, if none
        width: Size = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        queue = min(65_536, max(256, facts.rows // 20)) if queue is None else queue
        self.encoder = encoder
        self.head = nn.Sequential(nn.Linear(encoder.width, encoder.width), nn.ReLU(inplace=True), nn.Linear(encoder.width, width))
        self.key_encoder, self.key_head = Teacher(self.encoder), Teacher(self.head)
        self.queue = Queue(queue, width)
        self.temperature, self.momentum = temperature, momentum

    def forward(self, views: list[View], progress: float) -> Terms:
        query_view, key_view = views
        query = F.normalize(self.head(self.encoder(query_view)).float(), dim=1)
        key = F.normalize(self.key_head(self.key_encoder(key_view)).float(), dim=1)
        self.pending.append(gather(key))
        return {"info_nce": self.info_nce(query, key)}

    def info_nce(self, query: Tensor, key: Tensor) -> Tensor:
        """query, key (B,D) of length 1 -> a scalar. Equation 1: only the queue's keys are negatives, not the other keys of the batch."""
        return queue_info_nce(query, key, self.queue.vectors, self.temperature)

    def after_step(self, progress: float) -> None:
        for keys in self.pending:
            self.queue.push(keys)
        for teacher in (self.key_encoder, self.key_head):
            teacher.follow(self.momentum)
