"""SimCLR, VICReg, MAE and DINO on CIFAR-10, untaught beside lightly: loss on the same tensors, speed, memory, kNN at equal time.

python benchmarks/peers_images.py [--method simclr ...] [--rounds 2] [--steps 8] [--seconds 45]                 (pip install lightly)

Both train the same encoder of timm (ResNet-18 with a 3x3 stem; a ViT of 6 blocks, width 192 and a class token for MAE and DINO)
with the same batch on the same encoded files; lightly's side, lightly_images.py, is what its examples have. "default" is float32 for
lightly and what precision=auto chooses for us; then both in the other's precision. Each run is a process of its own, in turn. The first
steps are not counted, nor is our packing. Images a second are the median over rounds of a run's mean, by the clock, and by the
processor's time of the process and its workers, which counts where other jobs use the machine (OMP_NUM_THREADS=1); ratios by both.
Memory is the peak of resident memory of the whole process (of lightly's the largest, workers apart), ours with packing and export.
Then each trains for the same seconds, at its defaults, and our kNN measures both frozen encoders on 1,000 test images with a bank of
2,000 training images, each shown images normalised as it was trained on. Labels are read for that alone.
Without UNTAUGHT_DATA, scikit-learn's digits (drawn at 32 x 32 in colour) stand in for CIFAR-10.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rounds import machine, table
from torch import Tensor, nn

from untaught.pipeline.pretrained import Pretrained

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data")) / "cifar10"
HERE = Path(__file__).parent
WARM = 2  # steps of each run that are not counted
BANK, QUERIES = 2_000, 1_000
RESNET = ["--encoder", "timm/resnet18"]
VIT = ["--encoder", "vit_mini", "encoder.class_token=true"]
METHODS = {"simclr": RESNET, "vicreg": RESNET, "mae": VIT, "dino": VIT}
SIDES = {  # name -> (whose, how)
    "untaught, default": ("untaught", []),
    "untaught, float32": ("untaught", ["precision=float32"]),
    "lightly, default": ("lightly", []),
    "lightly, bf16": ("lightly", ["--bf16"]),
}
PAIRS = {"lightly, default": ("untaught, default", "untaught, float32"), "lightly, bf16": ("untaught, default",)}


# --------------------------------------------------------------------------------------------------------------- data


def rows(part: str, count: int) -> Iterator[tuple[bytes, int]]:
    """Encoded images and their labels."""
    if DATA.exists():
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(DATA / f"{part}.parquet").iter_batches(1024):
            for row in batch.to_pylist()[:count]:
                yield row["image"]["bytes"], row["label"]
            count -= len(batch)
            if count <= 0:
                return
    else:
        from sklearn.datasets import load_digits

        digits: Any = load_digits()
        some = slice(0, 1438) if part == "train" else slice(1438, None)
        for drawn, label in list(zip(digits.images[some], digits.target[some], strict=True))[:count]:
            file = io.BytesIO()
            Image.fromarray((drawn * 15.9).astype(np.uint8)).resize((32, 32)).convert("RGB").save(file, "png")
            yield file.getvalue(), int(label)


def decoded(part: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N,32,32,3) uint8 and labels (N,)."""
    pictures, labels = zip(*rows(part, count), strict=True)
    return np.stack([np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]), np.array(labels)


# ------------------------------------------------------------------------------------------------- on the same tensors


def losses() -> list[list[str]]:
    """A row a method: lightly's loss, ours, and how far they and their gradients are apart."""
    from lightly.loss import DINOLoss, NTXentLoss, VICRegLoss
    from lightly.models import utils

    from untaught.core import Facts, View
    from untaught.encoders.plain import Plain
    from untaught.encoders.timm import vit_mini
    from untaught.methods.contrastive.simclr import SimCLR
    from untaught.methods.decorrelation.vicreg import VICReg
    from untaught.methods.distillation.dino import DINO
    from untaught.methods.reconstruction.mae import MAE

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32))
    encoder, facts = Plain(network, View(torch.zeros(2, 1, 8, 8))), Facts(rows=256)
    a, b = (torch.randn(256, 512, requires_grad=True) for _ in range(2))
    said, taught = torch.randn(8, 64, 1024, requires_grad=True), torch.randn(2, 64, 1024)
    result = [
        apart("simclr, temperature 0.1", [a, b], NTXentLoss(0.1)(a, b), SimCLR(encoder, facts, temperature=0.1).objective([a, b], 0)),
        apart("vicreg, at the defaults", [a, b], VICRegLoss()(a, b), VICReg(encoder, facts).objective([a, b], 0)),
        apart("vicreg, variance doubled there", [a, b], VICRegLoss(mu_param=50)(a, b), VICReg(encoder, facts).objective([a, b], 0)),
    ]
    theirs, ours = DINOLoss(1024, center_momentum=0.9), DINO(encoder, facts, prototypes=1024, teacher_temperature=(0.04, 0.04))
    for step in range(2):
        value = theirs([*taught], [*said])
        result.append(apart(f"dino, step {step}", [said], value, {"cross_entropy": ours.cross_entropy(said, taught, 0.5)}))
        ours.pending.append(taught.mean((0, 1)))
        ours.after_step(0.5)
        ours.pending.clear()
    x, hidden = torch.randn(64, 3, 32, 32), torch.zeros(64, 64, dtype=torch.bool)
    hidden.scatter_(1, torch.rand(64, 64).argsort(1)[:, :48], True)
    view = View(x, mask=hidden, target=nn.functional.unfold(x, 4, stride=4).transpose(1, 2))
    for normalise in (False, True):
        method = MAE(vit_mini(size=32), Facts(rows=64, views={"masked": view}), normalise=normalise)
        patches, where = utils.patchify(x, 4), hidden.nonzero()[:, 1].view(64, 48)
        target = utils.normalize_mean_var(patches) if normalise else patches
        in_their_order = method.restore(view).unflatten(2, (3, 4, 4)).permute(0, 1, 3, 4, 2).flatten(2)
        value = nn.MSELoss()(utils.get_at_index(in_their_order, where), utils.get_at_index(target, where))
        name = f"mae, normalise={str(normalise).lower()}"
        result.append(apart(name, [method.out.weight], value, method([view], 0)))
    return result


def apart(name: str, inputs: list[Tensor], theirs: Tensor, terms: dict[str, Tensor]) -> list[str]:
    ours = torch.stack([*terms.values()]).sum()
    first, second = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, inputs)]) for loss in (theirs, ours))
    return [name, f"{theirs:.6f}", f"{ours:.6f}", f"{abs(ours / theirs - 1):.0e}", f"{(first - second).norm() / first.norm():.0e}"]


# ---------------------------------------------------------------------------------------------------------------- runs


@dataclass
class Outcome:
    """Of one training: seconds of each counted step by the clock, seconds of the processor a step (workers included), peak in MiB."""

    seconds: list[float]
    processor: float
    memory: float
    steps: int


def run(method: str, whose: str, folder: Path, out: Path, batch: int, how: list[str]) -> Outcome:
    """A training in a process of its own. Both sides write a row of metrics a step, at which their processor time is read."""
    if whose == "lightly":
        command = [sys.executable, HERE / "lightly_images.py", method, folder, out, "--batch", str(batch), *how]
    else:
        ours = [*f"-m untaught.cli pretrain {folder} --method {method} --out {out}".split(), f"batch_size={batch}", "log_every=1"]
        command = [sys.executable, *ours, *METHODS[method], *how]
    metrics, marks = out / "metrics.jsonl", {0: 0.0}
    with open(out.with_suffix(".log"), "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"UNTAUGHT_CACHE": str(folder.parent / "cache")})
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            done = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            if done not in marks:
                marks[done] = processor_seconds(process.pid)
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read()}")
    seconds = [batch / json.loads(line)["samples_per_second"] for line in metrics.read_text().splitlines()]
    counted = [done for done in marks if WARM <= done < len(seconds)]  # at the last step a process begins with something else
    spent = (marks[counted[-1]] - marks[counted[0]]) / (counted[-1] - counted[0]) if len(counted) > 1 else math.nan
    return Outcome(seconds[WARM:], spent, ended[2].ru_maxrss / 1024, len(seconds))


def processor_seconds(pid: int) -> float:
    """Of a process and its children that run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0  # it has just ended
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(processor_seconds(int(child)) for child in children)


def speed(method: str, folder: Path, runs: Path, asked: argparse.Namespace) -> list[list[str]]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in SIDES}
    for number in range(asked.rounds):
        for name, (whose, how) in SIDES.items():
            length = ["--steps", str(asked.steps)] if whose == "lightly" else [f"steps={asked.steps}"]
            out = runs / f"{method}-{name.replace(', ', '-')}-{number}"
            outcomes[name].append(run(method, whose, folder, out, asked.batch, [*length, *how]))
    rates, lines = {}, []
    for name, each in outcomes.items():
        clock, processor = (
            asked.batch / statistics.median(values) for values in ([statistics.mean(o.seconds) for o in each], [o.processor for o in each])
        )
        rates[name] = clock, processor
        ratios = [f"{rates[ours][0] / clock:.1f}, {rates[ours][1] / processor:.1f}" for ours in PAIRS.get(name, ())]
        memory = statistics.median(o.memory for o in each)
        lines.append([method, name, f"{clock:.1f}", f"{processor:.1f}", *ratios, *[""] * (2 - len(ratios)), f"{memory:.0f}"])
    return lines


def equal_time(method: str, folder: Path, runs: Path, asked: argparse.Namespace, bank: Any, queries: Any) -> list[str]:
    """kNN of both, each after `seconds` of training at its defaults, and of the encoder untrained."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from untaught.pipeline.pretrained import build_from, load_encoder

    first, second = runs / f"{method}-ours", runs / f"{method}-theirs"
    ours = run(method, "untaught", folder, first, asked.batch, [f"minutes={asked.seconds / 60}"])
    peer = run(method, "lightly", folder, second, asked.batch, ["--seconds", str(asked.seconds)])
    ours_model = load_encoder(first)
    _, config, prep = ours_model
    theirs: Any = build_from(config, prep)
    theirs.model.load_state_dict(torch.load(second / "encoder.pt"))
    as_theirs = replace(prep, statistics={"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)})
    random_init = Pretrained(build_from(config, prep), config, prep)
    scores = [knn(model, bank, queries) for model in (ours_model, Pretrained(theirs, config, as_theirs), random_init)]
    return [method, *(f"{100 * score:.1f}%" for score in scores), f"{ours.steps}, {peer.steps}"]


def knn(model: Pretrained, bank: Any, queries: Any) -> float:
    from untaught.evaluation.knn import knn_accuracy
    from untaught.inference.embed import Embedder

    vectors = [np.concatenate([part.vectors for part in Embedder(model, images)]) for images, _ in (bank, queries)]
    return knn_accuracy(vectors[0], bank[1], vectors[1], queries[1])[20]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", choices=METHODS, help="all four if not given")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="of each run whose speed is measured; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=45, help="of training before kNN; 0 leaves it out")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=10_240, help="to train on")
    asked = parser.parse_args()
    methods, began = asked.method or [*METHODS], time.perf_counter()
    print(machine())
    print(f"\n{'CIFAR-10' if DATA.exists() else 'digits'}, batch {asked.batch}, {torch.get_num_threads()} threads\n")
    print(table(["loss on the same tensors", "lightly", "untaught", "apart", "gradients apart"], losses()))
    with tempfile.TemporaryDirectory() as scratch:
        folder, runs = Path(scratch) / "images", Path(scratch) / "runs"
        folder.mkdir()
        runs.mkdir()
        for number, (picture, _) in enumerate(rows("train", asked.images)):
            (folder / f"{number:05d}.{'webp' if DATA.exists() else 'png'}").write_bytes(picture)
        if asked.steps:
            print(f"\n{asked.rounds} rounds of {asked.steps} steps, {WARM} of them not counted\n", flush=True)
            head = ["method", "", "images/s", "a processor second", "untaught, default over it", "untaught, float32 over it", "peak MiB"]
            for method in methods:
                print(table(head, speed(method, folder, runs, asked)) + "\n", flush=True)
        if asked.seconds:
            bank, queries = decoded("train", BANK), decoded("test", QUERIES)
            print(f"\nkNN (k = 20) after {asked.seconds:g} s of training, {len(queries[1]):,} test images, bank of {len(bank[1]):,}\n")
            head = ["method", "untaught", "lightly", "untrained", "steps: ours, theirs"]
            for method in methods:
                print(table(head, [equal_time(method, folder, runs, asked, bank, queries)]) + "\n", flush=True)
    print(f"\nit took {(time.perf_counter() - began) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
