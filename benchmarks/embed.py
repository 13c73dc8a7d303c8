"""Images a second: `embed` from files or arrays to vectors on disk, beside the encoder's own forward pass on ready tensors.

python benchmarks/embed.py [--encoder conv_small] [--images 50000] [--rounds 3]

Both use the same encoder, precision, batch and threads. The forward pass is given normalised images that lie in memory; `embed`
opens the source, decodes, makes the views and writes an .npy. Sources: CIFAR-10 as encoded files in its parquet, the same files after a
run has packed them, and as an array.
Wall time, since decoding and computing share the cores; in turn, medians of the rounds.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rounds import machine, table, take_turns

from untaught.core import Preprocessor

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))


def export(folder: Path, count: int) -> dict[str, Path]:
    """The first `count` images as a parquet of encoded files, twice, and as one array."""
    from PIL import Image
    from pyarrow import parquet

    rows = parquet.read_table(DATA / "cifar10" / "train.parquet", columns=["image"]).slice(0, count)
    for name in ("encoded", "packed"):
        parquet.write_table(rows, folder / f"{name}.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in rows["image"].to_pylist()]
    np.save(folder / "array.npy", np.stack(pixels))
    return {"encoded files": folder / "encoded.parquet", "packed files": folder / "packed.parquet", "an array": folder / "array.npy"}


def contest(encoder_name: str, sources: dict[str, Path], folder: Path, count: int, batch: int, rounds: int) -> None:
    import torch

    from untaught.config.registry import build_encoder, modality_named
    from untaught.core import View
    from untaught.data.sources import open_source
    from untaught.data.store import pack
    from untaught.inference.embed import Embedder, write_vectors
    from untaught.ops.precision import has_bfloat16
    from untaught.pipeline.pretrained import Pretrained

    encoder = build_encoder(encoder_name, {"channels": 3, "size": 32}, {}).eval()
    if any(p.ndim == 4 for p in encoder.parameters()):
        encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layout = {"size": 32, "side": 32, "channels": 3, "bits": 8, "preset": "small"}
    statistics = {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}
    prep = Preprocessor(modality_named("image"), layout, statistics)
    pack(open_source(str(sources["packed files"]), prep.modality), prep)
    view = View(torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last))

    @torch.no_grad()
    def forward() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16("cpu")):
            for _ in range(count // batch):
                encoder(view).float().numpy()
        return count // batch * batch

    def embed(source: Path) -> int:
        return write_vectors(Embedder(Pretrained(encoder, {"view": "whole"}, prep), str(source), batch_size=batch), folder / "vectors.npy")

    contestants = {"forward alone": forward, **{f"embed, {name}": lambda s=source: embed(s) for name, source in sources.items()}}
    times = take_turns(contestants, rounds, clock=time.perf_counter)
    own = times["forward alone"].median
    print(f"\n{encoder_name}, {count:,} images of 32 x 32, batch {batch}, {torch.get_num_threads()} threads\n")
    rows = [[name, f"{1 / t.median:.0f}", f"{1 / t.best:.0f}", f"{own / t.median:.1%}"] for name, t in times.items()]
    print(table(["", "images/s, median", "best", "of the forward pass"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", action="append", help="conv_small and timm/resnet18 if not given")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if not (DATA / "cifar10").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds cifar10/")
    print(machine())
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["UNTAUGHT_CACHE"] = scratch
        sources = export(Path(scratch), asked.images)
        for encoder in asked.encoder or ["conv_small", "timm/resnet18"]:
            contest(encoder, sources, Path(scratch), asked.images, asked.batch, asked.rounds)


if __name__ == "__main__":
    main()
