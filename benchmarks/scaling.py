"""SimCLR in one process and in several of one machine, images a second, and what sending takes.

python benchmarks/scaling.py [--encoder conv_small] [--encoder timm/resnet18] [--rounds 3] [--processes 1 2]

One process has all threads of the machine, of N each has an N-th (on GPUs: one each). The same batch, shared out; images of
32 pixels that were drawn once; float32 or bf16 as precision=auto chooses. The command is our own, in turns; its first steps are
not counted. "sending" is what a step spends in gathering of embeddings and BatchNorm's statistics, waiting for the slowest
included; gradients are reduced while they are made, and "reducing, alone" is one such sum by itself.
"loss apart" is the relative difference of the first step's loss in float32 from that of one process.
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
from typing import Any

from rounds import machine, table

EVERY = 2  # steps a row of metrics
WARM = 2  # rows that are not counted


def train(asked: argparse.Namespace) -> None:
    """In every process: a short run; the first writes what it saw."""
    import torch
    import torch.distributed as dist

    from untaught.commands.pretrain import pretrain
    from untaught.commands.request import PretrainArguments
    from untaught.training import trainer as loop

    spent, reducing = [0.0], [0.0]

    def timed(send: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = send(*given, **options)
            spent[0] += time.perf_counter() - began
            return result

        return call

    dist.all_gather, dist.all_reduce = timed(dist.all_gather), timed(dist.all_reduce)
    run = loop.Trainer.run

    def watched(self: loop.Trainer) -> None:
        spent[0] = 0.0
        run(self)
        spent[0] /= self.step
        flat = torch.zeros(sum(p.numel() for p in self.train_step.parameters), device=self.train_step.device)
        began = time.perf_counter()
        for _ in range(3):
            self.group.mean(flat)
        self.train_step.synchronize()
        reducing[0] = (time.perf_counter() - began) / 3

    loop.Trainer.run = watched
    knobs = {"steps": asked.steps, "batch_size": asked.batch, "log_every": asked.every, "precision": asked.precision}
    knobs |= {"evaluate_every": 0, "save_every": 10**6, "warmup": 0, "health_every": 0}
    out = pretrain(PretrainArguments(asked.data, "simclr", asked.encoder[0], Path(asked.out), knobs=knobs)).path
    if int(os.environ.get("RANK", 0)) == 0:
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        first, last = rows[min(WARM, len(rows)) - 1], rows[-1]
        speed = (last["samples"] - first["samples"]) / max(1e-9, last["seconds"] - first["seconds"])
        Path(asked.result).write_text(json.dumps([speed, spent[0], reducing[0], rows[0]["loss"]]))


def measure(
    scratch: Path, encoder: str, processes: int, batch: int, steps: int, every: int = EVERY, precision: str = "auto"
) -> list[float]:
    """-> images a second, seconds of sending a step, seconds of one sum of all gradients, the first loss."""
    from untaught.distributed.launch import launch

    result, out = scratch / "result.json", scratch / f"run{time.monotonic_ns()}"
    given = {"data": scratch / "images.npz", "out": out, "result": result, "encoder": encoder, "batch": batch, "steps": steps}
    given |= {"every": every, "precision": precision}
    command = [__file__, "--train", *(str(word) for key, value in given.items() for word in (f"--{key}", value))]
    if processes == 1:
        subprocess.run([sys.executable, *command], check=True, stderr=subprocess.DEVNULL)
    else:
        launch(command, processes)
    return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="conv_small and timm/resnet18 if not given")
    parser.add_argument("--processes", type=int, nargs="+", help="1 and 2; on GPUs as many as there are")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, help="512; 256 for anything but conv_small")
    parser.add_argument("--steps", type=int, help="of each run; 20, or 10 for anything but conv_small")
    parser.add_argument("--minutes", type=float, default=4, help="after which no further round begins")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=EVERY, help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="auto", help=argparse.SUPPRESS)
    for hidden in ("--data", "--out", "--result"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        train(asked)
        return
    os.environ.pop("OMP_NUM_THREADS", None)  # before torch looks: one process is to have all threads
    import numpy as np
    import torch

    until = time.perf_counter() + 60 * asked.minutes
    worlds = asked.processes or [1, max(2, torch.cuda.device_count())]
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        os.environ["UNTAUGHT_CACHE"] = str(scratch / "cache")
        np.savez(scratch / "images.npz", x=np.random.default_rng(0).integers(0, 256, (4096, 32, 32, 3), dtype=np.uint8))
        for encoder in asked.encoder or ["conv_small", "timm/resnet18"]:
            small = encoder == "conv_small"
            batch, steps = asked.batch or (512 if small else 256), asked.steps or (20 if small else 10)
            found: dict[int, list[list[float]]] = {world: [] for world in worlds}
            for _ in range(asked.rounds):
                if found[worlds[0]] and time.perf_counter() > until:
                    break
                for world in worlds:
                    found[world].append(measure(scratch, encoder, world, batch, steps))
            medians = {world: [statistics.median(values) for values in zip(*each, strict=True)] for world, each in found.items()}
            alone = medians[worlds[0]][0]
            losses = {world: measure(scratch, encoder, world, batch, 1, 1, "float32")[3] for world in worlds}
            apart = {world: abs(loss / losses[worlds[0]] - 1) for world, loss in losses.items()}
            print(f"\n{encoder}, batch {batch}, {len(found[worlds[0]])} rounds of {steps} steps\n")
            print(table(
                ["processes", "images/s, median", f"to {worlds[0]}", "best", "sending, ms a step", "reducing, alone, ms", "loss apart"],
                [
                    [str(world), f"{speed:.0f}", f"{speed / alone:.2f}", f"{max(each[0] for each in found[world]):.0f}"]
                    + ([f"{1000 * sending:.1f}", f"{1000 * reducing:.1f}", f"{apart[world]:.0e}"] if world > 1 else [""] * 3)
                    for world, (speed, sending, reducing, _) in medians.items()
                ],
            ))  # fmt: skip


if __name__ == "__main__":
    main()
