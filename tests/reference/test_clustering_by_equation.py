"""SwAV and DeepCluster-v2 against the papers' equations in plain loops, and SwAV against lightly's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.core import Facts, UserError, View
from untaught.encoders.conv_small import ConvSmall
from untaught.methods.clustering.deepcluster import NOWHERE, DeepCluster
from untaught.methods.clustering.swav import SwAV
from untaught.ops.sinkhorn import sinkhorn

ROWS, WIDTH, KINDS = 5, 4, 6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def views(index: Tensor | None = None) -> list[View]:
    index = torch.arange(ROWS) if index is None else index
    return [View(torch.randn(ROWS, 3, side, side), meta={"index": index}) for side in (16, 16, *[8] * 6)]


def small(cls: Any, rows: int = 40, **knobs: Any) -> Any:
    return cls(ConvSmall(channels=3, size=16, width=4), Facts(rows=rows), **{"prototypes": KINDS, "width": WIDTH, **knobs})


def entropy(target: Tensor, cosines: Tensor, temperature: float) -> float:
    powers = [math.exp(float(c) / temperature) for c in cosines]
    return -sum(float(t) * math.log(p / sum(powers)) for t, p in zip(target, powers, strict=True))


# ---------------------------------------------------------------------------------------------------------------- SwAV


def projected() -> list[Tensor]:
    return [F.normalize(torch.randn(ROWS, WIDTH)) for _ in range(8)]


def test_swav_is_the_cross_entropy_of_swapped_assignments() -> None:
    method, z = small(SwAV, temperature=0.1, epsilon=0.05, queue=0), projected()
    prototypes = F.normalize(method.prototypes.weight.detach())
    pairs = []
    for s in range(2):
        q = sinkhorn(z[s] @ prototypes.T, 0.05, 3)
        pairs += [entropy(q[i], z[t][i] @ prototypes.T, 0.1) for t in range(8) if t != s for i in range(ROWS)]
    assert method.objective(z, 0.5)["cross_entropy"].item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-4)


@pytest.mark.parametrize("queued", [False, True])
def test_swav_is_lightlys(queued: bool) -> None:
    loss = pytest.importorskip("lightly.loss").SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    method, z = small(SwAV, queue=9, queue_start=0.0 if queued else 1.0), projected()
    cosines = list(method.scores(torch.stack(z)))
    past = [method.scores(queue.vectors) for queue in method.queues] if queued else None
    torch.testing.assert_close(method.objective(z, 0.5)["cross_entropy"], loss(cosines[:2], cosines[2:], past).squeeze())


def test_the_queues_hold_the_newest_projections_of_the_large_crops() -> None:
    method = small(SwAV, queue=8)
    batches = [projected(), projected()]
    for z in batches:
        method.objective(z, 0.0)
    assert [len(keys) for keys in method.pending] == [ROWS, ROWS]
    method.after_step(0.0)
    for crop, queue in enumerate(method.queues):
        newest = torch.cat([z[crop] for z in batches])[-8:]
        assert sorted(queue.vectors.tolist()) == sorted(newest.tolist())


def test_swavs_prototypes_stand_still_at_first_and_have_no_length() -> None:
    method, made = small(SwAV, frozen=0.1), views()
    before = method.scores(torch.eye(WIDTH))
    with torch.no_grad():
        method.prototypes.weight.mul_(3)
    torch.testing.assert_close(method.scores(torch.eye(WIDTH)), before)
    for progress, moves in ((0.0, False), (0.1, True)):
        method(made, progress)["cross_entropy"].backward()
        method.before_step(progress)
        assert (method.prototypes.weight.grad is not None) == moves


def test_swav_projects_each_view_to_length_1_in_its_order() -> None:
    method, made = small(SwAV).eval(), views()
    for view, z in zip(made, method.project(made), strict=True):
        torch.testing.assert_close(z, F.normalize(method.projector(method.encoder(view))), atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------------------------------------- DeepCluster


def surveyed(features: Tensor, index: Tensor) -> Any:
    def extract_features(what: str, place: int) -> tuple[Tensor, Tensor]:
        assert (what, place) == ("encode", 0)
        return index, features

    return extract_features


def test_deepcluster_is_the_cross_entropy_of_each_views_cluster_in_each_clustering() -> None:
    method, made = small(DeepCluster, clusterings=2, temperature=0.1).eval(), views(torch.tensor([7, 0, 3, 12, 39]))
    method.centroids.copy_(F.normalize(torch.randn(2, KINDS, WIDTH), dim=-1))
    method.clusters.copy_(torch.randint(KINDS, (2, 40)))
    each = []
    for view in made:
        z = method.encode(view)
        for h in range(2):
            for i, row in enumerate([7, 0, 3, 12, 39]):
                target = F.one_hot(method.clusters[h, row], KINDS)
                each.append(entropy(target, z[i] @ method.centroids[h].T, 0.1))
    assert len(each) == 8 * 2 * ROWS
    assert method(made, 0.0)["cross_entropy"].item() == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_clusters_are_of_the_samples_that_were_seen() -> None:
    method = small(DeepCluster, prototypes=3)
    index = torch.arange(1, 37, 2)
    features = F.normalize(torch.eye(WIDTH)[torch.arange(18) % 3] + 0.01 * torch.randn(18, WIDTH))
    all_three = 0
    for epoch in range(4):
        method.before_epoch(epoch, surveyed(features, index))
        for h in range(3):
            own = method.clusters[h, index]
            torch.testing.assert_close((features @ method.centroids[h].T).argmax(1), own)
            assert (method.clusters[h, ::2] == NOWHERE).all()
            all_three += [len(own[kind::3].unique()) for kind in range(3)] == [1, 1, 1] and len(own.unique()) == 3
    assert all_three > 0  # some beginning finds them
    assert method.centroids.norm(dim=-1).sub(1).abs().max() < 1e-5


@pytest.mark.parametrize(("knobs", "settled"), [({}, True), ({"iterations": 1}, False)])
def test_ten_iterations_come_to_rest_where_one_does_not(knobs: dict[str, int], settled: bool) -> None:
    method, features = small(DeepCluster, **knobs), F.normalize(torch.randn(40, WIDTH))
    method.before_epoch(0, surveyed(features, torch.arange(40)))
    away = []
    for centroids, clusters in zip(method.centroids, method.clusters, strict=True):
        own = torch.stack([F.normalize(features[clusters == k].sum(0), dim=0) for k in range(KINDS)])
        away.append(float((own - centroids).abs().max()))
    assert (max(away) < 1e-5) == settled, "each centroid is the direction of its samples' sum"
    assert settled or min(away) > 0.01


def test_each_epoch_and_clustering_begins_from_other_samples_the_same_each_time() -> None:
    features, index = F.normalize(torch.randn(40, WIDTH)), torch.arange(40)
    found = []
    for epoch in (0, 0, 1):
        method = small(DeepCluster)
        method.before_epoch(epoch, surveyed(features, index))
        found.append(method.clusters)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0][0], found[0][1])


def test_samples_that_no_cluster_was_found_for_are_left_out_of_the_loss() -> None:
    method = small(DeepCluster).eval()
    method.before_epoch(0, surveyed(F.normalize(torch.randn(40, WIDTH)), torch.arange(40)))
    made = views()
    method.clusters[:, 3] = NOWHERE
    without = [View(view.x[[0, 1, 2, 4]], meta={"index": torch.tensor([0, 1, 2, 4])}) for view in made]
    torch.testing.assert_close(method(made, 0.0)["cross_entropy"], method(without, 0.0)["cross_entropy"])


def test_more_clusters_than_samples_are_refused() -> None:
    with pytest.raises(UserError, match="prototypes=6: there are only 5 samples to cluster"):
        small(DeepCluster).before_epoch(0, surveyed(torch.randn(5, WIDTH), torch.arange(5)))


@pytest.mark.parametrize(("rows", "count"), [(30, 2), (1438, 71), (1_281_167, 3000)])
def test_there_is_a_cluster_for_20_samples(rows: int, count: int) -> None:
    assert small(DeepCluster, rows=rows, prototypes=None).centroids.shape == (3, count, WIDTH)
