"""DeepCluster-v2. Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020. https://arxiv.org/abs/2006.09882

Views:  two large crops and six small ones (multi-crop).
Heads:  a projector with one hidden layer to 128 L2-normalised units, discarded after training. The paper's 2048 hidden units are its
        ResNet-50's width, as is the default here.
Loss:   cross-entropy between a sample's cluster and the prediction from every crop (cosines to the centroids at temperature 0.1),
        averaged over crops, the batch and three clusterings (appendix of the SwAV paper).
A version of DeepCluster (Caron, Bojanowski, Joulin, Douze, ECCV 2018, https://arxiv.org/abs/1807.05520) comparable with SwAV: before
each epoch the samples are clustered by spherical k-means (ten iterations, initialised with random samples), and the fixed centroids
serve as the classifier.
The authors' code clusters features cached during the previous epoch, in training mode and of either large crop in turn; here the
current network encodes the first large crop of every sample in eval mode. Its optimizer is as said in SwAV.
Their 3000 clusters are one per 427 images of ImageNet; the default here is one per 20 samples, at most 3000.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.blocks.mlp import mlp
from untaught.core import Encoder, ExtractFeatures, Facts, Method, Terms, UserError, View
from untaught.methods.photo import photo
from untaught.ops.kmeans import NOWHERE, centroid_cross_entropy, spherical_kmeans
from untaught.ranges import Few, Positive, Size, in_range

LARGE = 2  # views of the larger size: the first ones


class DeepCluster(Method):
    views = ("global", "global", *("local",) * 6)
    multicrop = "local"
    paper = {"optimizer": "lars", "base_lr": 0.3, "weight_decay": 1e-6, "warmup": 10 / 800}
    view_presets = photo({"global": {"scale": (0.14, 1.0)}, "local": {"scale": (0.05, 0.14)}})
    centroids: Tensor  # (H,K,D)
    clusters: Tensor  # (H,rows) int64

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Facts,
        *,
        temperature: Positive = 0.1,  # of the softmax over cosines to the centroids
        prototypes: Size | None = None,  # number of clusters; one per 20 samples, from 2 to 3000, if none
        clusterings: Few = 3,  # independent clusterings
        iterations: Few = 10,  # of k-means before each epoch
        hidden: Size | None = None,  # units of the projector's hidden layer; the encoder's width if none
        width: Size = 128,  # dimensions of the projection
    ) -> None:
        super().__init__()
        hidden = encoder.width if hidden is None else hidden
        prototypes = min(3000, max(facts.rows // 20, 2)) if prototypes is None else prototypes
        self.encoder = encoder
        self.projector = mlp(encoder.width, hidden, width)
        self.register_buffer("centroids", torch.zeros(clusterings, prototypes, width))
        self.register_buffer("clusters", torch.full((clusterings, facts.rows), NOWHERE))
        self.temperature, self.iterations, self.seed = temperature, iterations, facts.seed

    def before_epoch(self, epoch: int, extract_features: ExtractFeatures) -> None:
        index, features = extract_features("encode", 0)
        clusterings, prototypes, _ = self.centroids.shape
        if len(index) < prototypes:
            raise UserError(f"prototypes={prototypes}: there are only {len(index)} samples to cluster; choose fewer")
        for h in range(clusterings):
            generator = torch.Generator().manual_seed((self.seed << 32) + epoch * clusterings + h)
            start = features[torch.randperm(len(features), generator=generator)[:prototypes]].to(self.centroids)
            self.centroids[h], nearest = spherical_kmeans(features, start, self.iterations)
            self.clusters[h, index.to(nearest.device)] = nearest

    def encode(self, view: View) -> Tensor:
        """-> (B,D), L2-normalised."""
        return F.normalize(self.projector(self.encoder(view)).float())

    def prototype_scores(self, view: View) -> Tensor:
        """See Method.prototype_scores; the prototypes are the centroids of the first clustering."""
        return self.encode(view) @ self.centroids[0].T

    def forward(self, views: list[View], progress: float) -> Terms:
        assert views[0].meta is not None
        features = torch.cat([self.encoder(View.cat(views[:LARGE])), self.encoder(View.cat(views[LARGE:]))])
        z = F.normalize(self.projector(features).float())
        labels = self.clusters[:, views[0].meta["index"]].repeat(1, len(views))  # (H, views x B)
        return {"cross_entropy": centroid_cross_entropy(z, self.centroids, labels, self.temperature)}
