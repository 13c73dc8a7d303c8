"""InfoNCE forward and backward: memory over the inputs, value against the plain form, time, and lightly's NTXentLoss.

python benchmarks/info_nce.py [--rows 32768]                                                          (pip install lightly)

Every case runs in a process of its own. Memory is the high-water mark of resident memory after the loss less that before it,
the gradients of the inputs included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from rounds import machine, table

WIDTH = 128
FORMS = ("untaught", "plain", "lightly")


def loss_of(form: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if form == "untaught":
        from untaught.ops.info_nce import nt_xent

        return nt_xent(a, b, 0.5)
    if form == "lightly":
        from lightly.loss import NTXentLoss

        return NTXentLoss(0.5)(a, b)
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def high_water() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB on Linux


def one(form: str, rows: int) -> None:
    small = [torch.randn(8, WIDTH, requires_grad=True) for _ in range(2)]
    loss_of(form, *small).backward()  # imports and first allocations
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows // 2, WIDTH, generator=generator).requires_grad_() for _ in range(2))
    (a @ b[:1].T + b @ a[:1].T).sum().item()  # the inputs are resident
    before, began = high_water(), time.perf_counter()
    loss = loss_of(form, a, b)
    loss.backward()
    assert a.grad is not None
    print(high_water() - before, time.perf_counter() - began, loss.item(), a.grad.double().norm().item(), sep=",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32_768, help="rows of both views together; the plain forms stop at 8,192")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        return one(asked.one[0], int(asked.one[1]))
    print(machine())
    lines = []
    for rows in (2048, 8192, asked.rows):
        plain = None
        for form in FORMS[::-1] if rows <= 8192 else FORMS[:1]:
            done = subprocess.run([sys.executable, __file__, "--one", form, str(rows)], check=True, capture_output=True, text=True)
            memory, seconds, value, gradient = map(float, done.stdout.splitlines()[-1].split(","))
            plain = (value, gradient) if form == "plain" else plain
            apart = f"{abs(value / plain[0] - 1):.0e}, {abs(gradient / plain[1] - 1):.0e}" if plain and form == "untaught" else ""
            lines.append([f"{rows:,} x {WIDTH}", form, f"{memory:.0f}", f"{seconds:.2f}", f"{value:.6f}", apart])
    print(table(["rows", "form", "MiB over the inputs", "seconds", "value", "apart from plain (value, gradient norm)"], lines))
    return None


if __name__ == "__main__":
    main()
