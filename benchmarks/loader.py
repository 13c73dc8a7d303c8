"""What data costs a training step: the loader alone, and the share of a real run's time that is spent waiting for it.

python benchmarks/loader.py [--encoder conv_small] [--steps 40]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rounds import machine, table, take_turns

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
WARM = 5  # rows of metrics that are not counted


def run(out: Path, encoder: str, batch: int, steps: int) -> dict[str, float]:
    """Shares of the time of a short SimCLR run on CIFAR-10."""
    knobs = [f"steps={steps}", f"batch_size={batch}", "log_every=1"]
    data, asked = str(DATA / "cifar10" / "test.parquet"), ["--method", "simclr", "--encoder", encoder, "--out", str(out)]
    subprocess.run([sys.executable, "-m", "untaught.cli", "pretrain", data, *asked, *knobs], check=True, capture_output=True)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][WARM:]
    whole = sum(1 / row["samples_per_second"] for row in rows)
    shares = {name: sum(row[f"share_{name}"] / row["samples_per_second"] for row in rows) / whole for name in ("data", "views", "compute")}
    return shares | {"ms a step": 1000 * batch * whole / len(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="conv_small")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    if not (DATA / "cifar10").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds cifar10/")
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["UNTAUGHT_CACHE"] = str(Path(scratch) / "cache")
        shares = run(Path(scratch) / "run", asked.encoder, asked.batch, asked.steps)

        from untaught.config.registry import modality_named
        from untaught.pipeline.dataset import open_dataset

        source = str(DATA / "cifar10" / "test.parquet")
        dataset = open_dataset(source, modality_named("image"), columns=None, label=None, split=None, overrides={})
        dataset.open(stream=False, seed=0)
        loader = dataset.training(asked.batch, seed=0)
        alone = take_turns({"loader": lambda: sum(1 for _ in loader.batches(0))}, rounds=9)["loader"]
    step = shares.pop("ms a step")
    print(table(
        ["what", "measured", "of a step"],
        [
            [f"step, {asked.encoder}, batch {asked.batch}", f"{step:.1f} ms", ""],
            *([name if name != "data" else "data: waiting for the loader, and to the device", f"{share * step:.2f} ms", f"{share:.2%}"]
              for name, share in shares.items()),
            ["the loader alone, processor time of a batch", f"{alone.median * 1000:.2f} ms", f"{alone.median * 1000 / step:.2%}"],
        ],
    ))  # fmt: skip


if __name__ == "__main__":
    main()
