"""SimCLR on CIFAR-10 from encoded files, images a second: untaught against a plain PyTorch loop with lightly's parts.

python benchmarks/end_to_end.py [--encoder conv_small] [--encoder timm/resnet18] [--rounds 3]         (pip install lightly)

The encoded bytes of the parquet are written as files once; both sides read those. The peer is the loop of lightly's own
examples: LightlyDataset, SimCLRTransform(input_size=32) at its defaults, DataLoader with 2 workers, NTXentLoss, the same network
and projector, batch and optimizer. "default" is float32 for it and what precision=auto chooses for us; then bfloat16 autocast
for both, and once more with channels_last for the peer, which its examples do not use.
Short runs, each in a process of its own, in turn; the first steps of each are not counted, nor is our packing, which happens
once and is printed. The mean of a run's steps (workers deliver in bursts), the median over rounds, and the ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rounds import machine, table

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
WARM = 4  # steps of each run that are not counted
PEERS = {"lightly, float32": [], "lightly, bf16": ["--bf16"], "lightly, bf16, channels_last": ["--bf16", "--channels-last"]}
OURS = {"untaught, default": [], "untaught, bf16": ["precision=bf16"]}


def export(folder: Path, count: int) -> None:
    import pyarrow.parquet as pq

    done = 0
    for batch in pq.ParquetFile(DATA / "cifar10" / "train.parquet").iter_batches(1024, columns=["image"]):
        for row in batch.to_pylist()[: count - done]:
            (folder / f"{done:05d}.webp").write_bytes(row["image"]["bytes"])
            done += 1
        if done == count:
            return


def ours(folder: Path, runs: Path, encoder: str, batch: int, steps: int, knobs: list[str]) -> tuple[list[float], float]:
    """-> seconds of each counted step, seconds of everything before the first step."""
    out = runs / f"run{time.monotonic_ns()}"
    asked = [f"steps={steps}", f"batch_size={batch}", "log_every=1", "warmup=0", "schedule=constant", *knobs]
    began = time.time()
    subprocess.run(
        [*f"{sys.executable} -m untaught.cli pretrain {folder} --method simclr --encoder {encoder} --out {out}".split(), *asked],
        check=True,
        capture_output=True,
        env=os.environ | {"UNTAUGHT_CACHE": str(runs / "cache")},
    )
    ended = (out / "metrics.jsonl").stat().st_mtime
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [batch / row["samples_per_second"] for row in rows[WARM:]], ended - began - rows[-1]["seconds"]


def theirs(folder: Path, encoder: str, batch: int, steps: int, knobs: list[str]) -> list[float]:
    asked = ["--peer", str(folder), "--encoder", encoder, "--batch", str(batch), "--steps", str(steps), *knobs]
    done = subprocess.run([sys.executable, __file__, *asked], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])[WARM:]


def peer(asked: argparse.Namespace) -> None:
    """The plain loop; prints the seconds of each step."""
    import torch
    from lightly.data import LightlyDataset
    from lightly.loss import NTXentLoss
    from lightly.transforms.simclr_transform import SimCLRTransform
    from torch.utils.data import DataLoader

    from untaught.blocks.convolution import Convolution
    from untaught.blocks.mlp import mlp
    from untaught.config.registry import build_encoder
    from untaught.core import View

    encoder = build_encoder(asked.encoder[0], {"channels": 3, "size": 32}, {})
    network = torch.nn.ModuleList([encoder, mlp(encoder.width, encoder.width, 128, last_norm=True)])
    for module in network.modules():
        if type(module) is Convolution:
            module.__class__ = torch.nn.Conv2d  # what the peer would have  # type: ignore[assignment]
    if asked.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion, optimizer = NTXentLoss(0.5), torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    dataset = LightlyDataset(asked.peer, transform=SimCLRTransform(input_size=32))  # type: ignore[arg-type]
    loader = DataLoader(dataset, asked.batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)  # type: ignore[arg-type]
    seconds: list[float] = []
    last = time.perf_counter()
    while len(seconds) < asked.steps:
        for (a, b), *_ in loader:
            if asked.channels_last:
                a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
            with torch.autocast("cpu", torch.bfloat16, enabled=asked.bf16):
                loss = criterion(*(network[1](encoder(View(x))) for x in (a, b)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # its examples sum it up every step
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
            if len(seconds) == asked.steps:
                break
    print(json.dumps(seconds))
    os._exit(0)  # workers that are still ahead need not finish


def contest(folder: Path, runs: Path, encoder: str, batch: int, steps: int, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in [*OURS, *PEERS]}
    packing = None
    for _ in range(rounds):
        for name, knobs in OURS.items():
            steps_of_run, before = ours(folder, runs, encoder, batch, steps, knobs)
            seconds[name].append(statistics.mean(steps_of_run))
            packing = packing or before
        for name, knobs in PEERS.items():
            seconds[name].append(statistics.mean(theirs(folder, encoder, batch, steps, knobs)))
    speed = {name: batch / statistics.median(values) for name, values in seconds.items()}
    spread = {name: f"{batch / max(values):.0f} to {batch / min(values):.0f}" for name, values in seconds.items()}
    pairs = {"lightly, float32": "untaught, default", "lightly, bf16": "untaught, bf16", "lightly, bf16, channels_last": "untaught, bf16"}
    print(f"\n{encoder}, batch {batch}, {rounds} rounds of {steps - WARM} steps; start and packing {packing:.1f} s\n")
    print(table(
        ["", "images/s, median", "lowest to highest", "ratio of ours to it", "in each round"],
        [
            [name, f"{speed[name]:.0f}", spread[name], *(ratios(seconds[pairs[name]], seconds[name]) if name in pairs else ("", ""))]
            for name in seconds
        ],
    ))  # fmt: skip


def ratios(ours: list[float], theirs: list[float]) -> tuple[str, str]:
    """Of the medians, and the lowest and highest within a round."""
    within = [b / a for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(theirs) / statistics.median(ours):.2f}", f"{min(within):.2f} to {max(within):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="conv_small and timm/resnet18 if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_240)
    parser.add_argument("--batch", type=int, help="512; 256 for anything but conv_small")
    parser.add_argument("--steps", type=int, help="of each run; 16, or 8 for anything but conv_small")
    for hidden in ("--bf16", "--channels-last"):
        parser.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peer:
        peer(asked)
        return
    if not (DATA / "cifar10").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds cifar10/")
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder, runs = Path(scratch) / "images", Path(scratch) / "runs"
        folder.mkdir()
        runs.mkdir()
        export(folder, asked.images)
        for encoder in asked.encoder or ["conv_small", "timm/resnet18"]:
            small = encoder == "conv_small"
            contest(folder, runs, encoder, asked.batch or (512 if small else 256), asked.steps or (16 if small else 8), asked.rounds)


if __name__ == "__main__":
    main()
