"""What a run on many devices would take: arithmetic, and a discrete-event simulation of loaders, collectives and checkpoints.

python benchmarks/scale.py            # the tables of docs/scale.md: on paper
python benchmarks/scale.py --check    # here: measures one process and the collectives, predicts two processes, measures them

The simulation is SimPy's: a rank's loader fills a queue of two batches, out of a storage that all ranks share; its trainer takes one,
computes, and meets the others at the all-gather of the loss and at the all-reduce of gradients; rank 0 writes checkpoints, or every
rank its shard. Computing varies from step to step (lognormal), so that all wait for the slowest. Failures are not simulated: their
cost is Young's approximation (Commun. ACM 17, 1974).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scaling
import simpy
import torch
from rounds import machine, table

PREFETCHED = 2  # batches that a loader holds ready
HOUR = 3600.0


@dataclass(frozen=True)
class Job:
    """One step of a run, rank by rank: bytes, seconds, and bytes a second."""

    ranks: int
    batch: int  # images of a rank in a step
    compute: float  # seconds of a rank's forward and backward pass
    jitter: float  # their standard deviation, as a share
    decode: float  # seconds in which a rank's loader makes a batch, reading not counted
    read: float  # bytes of a batch that come from the shared storage
    storage: float  # bytes a second that it gives to all ranks together
    gathered: float  # bytes that a rank adds to the all-gather
    small: int  # further small collectives, of BatchNorm, in a step
    gradients: float  # bytes that are all-reduced
    hidden: float  # seconds of the all-reduce that pass while the backward pass still computes
    bandwidth: float  # bytes a second between two ranks
    latency: float  # seconds of a hop
    checkpoint: float  # bytes
    every: int  # steps between two checkpoints
    disk: float  # bytes a second of one writer
    sharded: bool = False  # each rank writes its part

    @property
    def hops(self) -> int:
        return math.ceil(math.log2(self.ranks)) if self.ranks > 1 else 0

    @property
    def gathering(self) -> float:
        """Seconds of the all-gather, in a ring, and of the small collectives, in a tree."""
        if self.ranks == 1:
            return 0.0
        return self.hops * self.latency + (self.ranks - 1) * self.gathered / self.bandwidth + self.small * 2 * self.hops * self.latency

    @property
    def reducing(self) -> float:
        """Seconds of the all-reduce that are waited for: twice the bytes over the link, in a tree of rings."""
        if self.ranks == 1:
            return 0.0
        whole = 2 * self.hops * self.latency + 2 * (self.ranks - 1) / self.ranks * self.gradients / self.bandwidth
        return max(0.0, whole - self.hidden)

    @property
    def writing(self) -> float:
        return self.checkpoint / (self.ranks if self.sharded else 1) / self.disk


@dataclass
class Outcome:
    """Of a simulated run: images a second of all ranks, and the shares of a rank's time that went to waiting."""

    pictures_per_second: float
    data: float  # for its loader
    others: float  # for slower ranks
    network: float  # for the collectives themselves
    checkpoints: float


class Meeting:
    """All ranks come, then the collective takes its seconds, then all go on."""

    def __init__(self, world: simpy.Environment, ranks: int, seconds: float) -> None:
        self.world, self.ranks, self.seconds = world, ranks, seconds
        self.waiting, self.met = 0, world.event()

    def join(self) -> Generator[Any, Any, None]:
        self.waiting += 1
        met = self.met
        if self.waiting < self.ranks:
            yield met
            return
        self.waiting, self.met = 0, self.world.event()
        yield self.world.timeout(self.seconds)
        met.succeed()


def simulate(job: Job, steps: int, seed: int = 0) -> Outcome:
    """Plays `steps` steps of every rank."""
    world = simpy.Environment()
    storage = simpy.Resource(world)
    gather, reduce = Meeting(world, job.ranks, job.gathering), Meeting(world, job.ranks, job.reducing)
    spread = math.sqrt(math.log(1 + job.jitter**2))
    seconds = job.compute * np.random.default_rng(seed).lognormal(-(spread**2) / 2, spread, (job.ranks, steps))
    spent = dict.fromkeys(("data", "others", "network", "checkpoints"), 0.0)

    def load(queue: simpy.Store) -> Generator[Any, Any, None]:
        for _ in range(steps):
            if job.read:
                with storage.request() as turn:
                    yield turn
                    yield world.timeout(job.read / job.storage)
            yield world.timeout(job.decode)
            yield queue.put(None)

    def train(rank: int, queue: simpy.Store) -> Generator[Any, Any, None]:
        for step in range(steps):
            began = world.now
            yield queue.get()
            spent["data"] += world.now - began
            yield world.timeout(seconds[rank, step])
            for meeting in (gather, reduce):
                began = world.now
                yield from meeting.join()
                spent["network"] += meeting.seconds
                spent["others"] += world.now - began - meeting.seconds
            if (step + 1) % job.every == 0 and (rank == 0 or job.sharded):  # the others wait at the next meeting
                spent["checkpoints"] += job.writing
                yield world.timeout(job.writing)

    for rank in range(job.ranks):
        queue = simpy.Store(world, PREFETCHED)
        world.process(load(queue))
        world.process(train(rank, queue))
    world.run()
    whole = world.now * job.ranks
    return Outcome(job.ranks * job.batch * steps / world.now, **{name: value / whole for name, value in spent.items()})


# ------------------------------------------------------------------------------------------------------- on paper

SIDE, STORED, ENCODED = 224, 336, 110e3  # pixels of a view and of a stored image (1.5 times that); bytes of a JPEG of ImageNet
FLOPS, PEAK, REACHED = 35.2e9, 989e12, 0.4  # of ViT-B/16 forward on one view; of an H100 or H200 in bf16; the share that is reached
WEIGHTS = 86e6
PER_GPU = REACHED * PEAK / (3 * 2 * FLOPS)  # images a second of SimCLR: two views, and a backward pass of twice the forward
DECODED = 750.0  # images of 500 x 375 that one core decodes in a second
CORES = 12  # beside each GPU
SEEN = {1e6: 300, 1e8: 10, 1e9: 3}  # images of the data -> epochs
LINK = 50e9  # bytes a second a GPU: 400 Gbit
LATENCY = 8e-6
SHARED = 100e9  # bytes a second of a large parallel file system
INTERRUPTED = 50_000 * HOUR  # one GPU's mean time between interruptions (Llama 3 report: 419 in 54 days on 16,384 GPUs)
RESTART = 300.0  # seconds until a restarted run trains again


def paper(ranks: int, stored: bool = False, norms: int = 0) -> Job:
    """ViT-B/16, SimCLR, 256 images a GPU; from the GPU's own disk, or as encoded shards from the shared storage."""
    batch = 256
    compute = batch / PER_GPU
    return Job(
        ranks=ranks,
        batch=batch,
        compute=compute,
        jitter=0.03,
        decode=0.001 if stored else batch / (DECODED * CORES),
        read=0.0 if stored else batch * ENCODED,
        storage=SHARED,
        gathered=2 * batch * 128 * 4,
        small=norms,
        gradients=4 * WEIGHTS,
        hidden=compute * 2 / 3 * 0.9,
        bandwidth=LINK,
        latency=LATENCY,
        checkpoint=8 * WEIGHTS,
        every=500,
        disk=2e9,
    )


def lost(ranks: int, checkpoint: float, every: float) -> float:
    """Share of the time that interruptions cost: half an interval between checkpoints and a restart each."""
    between = INTERRUPTED / ranks
    return (every / 2 + RESTART) / between + checkpoint / every


def number(value: float) -> str:
    """1.2k, 340M ... with two or three digits."""
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.3g}"


def data_table() -> str:
    rows = []
    for pictures, epochs in SEEN.items():
        hours = pictures * epochs / PER_GPU / HOUR
        rows.append(
            [
                f"{pictures:,.0f}",
                f"{number(pictures * ENCODED)}B",
                f"{number(pictures * STORED**2 * 3)}B",
                f"{pictures / DECODED / HOUR:,.1f}",
                f"{number(8 * pictures)}B",
                f"{epochs}",
                f"{hours:,.0f}",
                *(_time(hours / ranks) for ranks in (1, 64, 1024)),
            ]
        )
    head = [
        "images",
        "encoded",
        "stored",
        "core-hours to decode once",
        "one epoch's order",
        "epochs",
        "GPU-hours",
        "1 GPU",
        "64",
        "1,024",
    ]
    return table(head, rows)


def _time(hours: float) -> str:
    return f"{hours / 24:,.0f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


CASES = {
    "from its own disk": {"stored": True},
    "shards from the shared storage": {},
    "the same, twice the storage": {"storage": 2 * SHARED},
    "from its own disk, BatchNorm as in a ResNet-50": {"stored": True, "norms": 53 * 2 * 2},
    "from its own disk, links of 3 GB/s": {"stored": True, "bandwidth": 3e9},
    "from its own disk, a checkpoint every 20 steps": {"stored": True, "every": 20},
    "the same, sharded": {"stored": True, "every": 20, "sharded": True},
}


def scaling_table(steps: int = 60) -> str:
    rows = []
    for name, changes in CASES.items():
        for ranks in (1, 64, 1024):
            base = paper(ranks, changes.get("stored", False), changes.get("norms", 0))
            job = replace(base, **{key: value for key, value in changes.items() if key not in ("stored", "norms")})
            found = simulate(job, steps if ranks < 1024 else steps // 2)
            efficiency = found.pictures_per_second / ranks / PER_GPU
            shares = [f"{share:.0%}" for share in (found.data, found.others, found.network, found.checkpoints)]
            rows.append([name, f"{ranks:,}", number(found.pictures_per_second), f"{efficiency:.0%}", *shares])
    head = ["case", "GPUs", "images/s", "of one GPU alone", "waits: data", "others", "network", "checkpoints"]
    return table(head, rows)


def faults_table() -> str:
    rows = []
    for ranks in (1, 64, 1024):
        each = 8 * WEIGHTS / 2e9
        best = math.sqrt(2 * each * INTERRUPTED / ranks)
        rows.append(
            [
                f"{ranks:,}",
                f"{INTERRUPTED / ranks / HOUR:,.0f} h",
                f"{best / 60:.0f} min",
                *(f"{lost(ranks, each, between):.2%}" for between in (best, HOUR)),
            ]
        )
    return table(["GPUs", "an interruption every", "best time between checkpoints", "lost with it", "lost with one an hour"], rows)


# -------------------------------------------------------------------------------------------------------------- here

STEPS, BATCH = 20, 512


def ping(result: str) -> None:
    """In each of two processes: the seconds of a small all-reduce, and the bytes a second of a large one."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    seconds = []
    for size in (16, 1 << 20):
        x, taken = torch.zeros(size), []
        for _ in range(30):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(x)
            taken.append(time.perf_counter() - began)
        seconds.append(statistics.median(taken))
    if dist.get_rank() == 0:
        Path(result).write_text(json.dumps([seconds[0], 4 * (1 << 20) / (seconds[1] - seconds[0])]))
    dist.destroy_process_group()


def apart(scratch: Path) -> tuple[float, float]:
    """Two processes of one thread, each by itself on half a batch, at once -> seconds of a step, their deviation as a share."""
    given = {
        "data": scratch / "images.npz",
        "encoder": "conv_small",
        "batch": BATCH // 2,
        "steps": STEPS,
        "result": scratch / "apart.json",
    }
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    outs = [scratch / f"apart{time.monotonic_ns()}-{number}" for number in range(2)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, scaling.__file__, "--train", *words, "--out", str(out)] for out in outs]
    running = [subprocess.Popen(command, env=alone, stderr=subprocess.DEVNULL) for command in commands]
    if any(process.wait() for process in running):
        raise RuntimeError("a run on half a batch failed")
    steps = []
    for out in outs:
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][scaling.WARM - 1 :]
        steps += [(after["seconds"] - before["seconds"]) / (after["step"] - before["step"]) for before, after in pairwise(rows)]
    return statistics.mean(steps), statistics.stdev(steps) / statistics.mean(steps) * math.sqrt(scaling.EVERY)


def check(rounds: int = 3) -> None:
    """Predicts two processes of this machine from what one does, and from what the collectives take; measures them beside it."""
    from untaught.config.registry import build_encoder
    from untaught.distributed.launch import launch

    print(machine())
    norms = sum(isinstance(part, torch.nn.BatchNorm2d) for part in build_encoder("conv_small", {"channels": 3, "size": 32}, {}).modules())
    found = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ["UNTAUGHT_CACHE"] = str(scratch / "cache")
        np.savez(scratch / "images.npz", x=np.random.default_rng(0).integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8))
        for _ in range(rounds):
            launch([__file__, "--ping", str(scratch / "ping.json")], 2)
            small, bandwidth = json.loads((scratch / "ping.json").read_text())
            compute, jitter = apart(scratch)
            job = Job(
                ranks=2, batch=BATCH // 2, compute=compute, jitter=jitter, decode=1e-3, read=0.0, storage=1.0,
                gathered=2 * BATCH // 2 * 128 * 4, small=2 * 2 * (norms + 2), gradients=4 * 6e5, hidden=0.0, bandwidth=bandwidth,
                latency=small / 2, checkpoint=0.0, every=10**6, disk=1.0,
            )  # fmt: skip
            predicted = simulate(job, 500).pictures_per_second
            measured = scaling.measure(scratch, "conv_small", 2, BATCH, STEPS)[0]
            found.append([2 * job.batch / compute, predicted, measured, measured / predicted])
            print(f"apart {found[-1][0]:.0f}/s, predicted {predicted:.0f}/s, measured {measured:.0f}/s; jitter {jitter:.0%}")
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    head = ["two processes apart, images/s", "predicted together", "measured together", "measured to predicted"]
    print(table(head, [[*(f"{value:.0f}" for value in medians[:3]), f"{medians[3]:.2f}"]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the simulation with two processes on this machine")
    parser.add_argument("--ping", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ping:
        ping(asked.ping)
        return
    if asked.check:
        check()
        return
    print(f"One GPU: {PER_GPU:,.0f} images/s\n")
    for part in (data_table(), scaling_table(), faults_table()):
        print(part, end="\n\n")


if __name__ == "__main__":
    main()
