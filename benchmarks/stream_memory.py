"""Resident memory of a streamed run on 1 GB and on 20 GB of photographs: it must not depend on the data's size.

python benchmarks/stream_memory.py [--gigabytes 1 20] [--kind tar] [--image jpg] [--scratch FOLDER]

Photographs of 500 x 375 as JPEG, or uncompressed (ppm: a tenth of the processor's time a gigabyte), in shards of 100 MB. Ten shards are
written, and the others are links to them under names of their own, each opened, counted, shuffled and decoded as a file of its own.
One epoch of SimCLR with a small conv_small at 32 pixels on all of it, from opening to the report, by our own command in a process of its
own. Memory is what Linux counts as resident, libraries and mapped files included: its peak, and the medians over the first and the last
quarter of the time.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from packing import DATA, photographs
from PIL import Image
from rounds import machine, table

SHARD, WRITTEN = 100 << 20, 10  # bytes of a shard, and how many are not links
KNOBS = "stream=true epochs=1 size=32 batch_size=256 encoder.width=8 log_every=50 precision=float32"


def write_shards(scratch: Path, kind: str, ending: str) -> list[Path]:
    """The shards of which all others are links."""
    photographs(scratch / "photos", 400)
    pictures = [path.read_bytes() for path in sorted((scratch / "photos").rglob("*.jpg"))]
    pictures = pictures if ending == "jpg" else [uncompressed(picture) for picture in pictures]
    shards = []
    for number in range(WRITTEN):
        rows, size = [], 0
        while size < SHARD:
            rows.append(pictures[(number * 40 + len(rows)) % len(pictures)])
            size += len(rows[-1])
        shards.append(scratch / f"{number}.{kind}")
        if kind == "tar":
            with tarfile.open(shards[-1], "w") as archive:
                for i, picture in enumerate(rows):
                    member = tarfile.TarInfo(f"{i:06}.{ending}")
                    member.size = len(picture)
                    archive.addfile(member, io.BytesIO(picture))
        else:
            import pyarrow
            from pyarrow import parquet

            table = pyarrow.table({"image": [{"bytes": picture, "path": f"{i:06}.{ending}"} for i, picture in enumerate(rows)]})
            parquet.write_table(table, shards[-1], row_group_size=100, compression="none")
    return shards


def uncompressed(picture: bytes) -> bytes:
    Image.open(io.BytesIO(picture)).save(file := io.BytesIO(), "ppm")
    return file.getvalue()


def run(data: Path, out: Path) -> tuple[float, list[float], float]:
    """-> peak, and a sample every half second, of resident MiB; seconds."""
    command = [sys.executable, "-m", "untaught.cli", "pretrain", data, "--method", "simclr", "--out", out, *KNOBS.split()]
    began, samples = time.perf_counter(), []
    with open(out.with_suffix(".log"), "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            samples.append(pages * os.sysconf("SC_PAGESIZE") / (1 << 20))
            time.sleep(0.5)
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed:\n{log.read()}")
    return ended[2].ru_maxrss / 1024, samples, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 20])
    parser.add_argument("--kind", choices=["tar", "parquet"], default="tar")
    parser.add_argument("--image", choices=["jpg", "ppm"], default="jpg")
    parser.add_argument("--scratch", type=Path, help="where 1.1 GB are written; the system's folder for such if not given")
    asked = parser.parse_args()
    if not (DATA / "flickr8k_mini").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds flickr8k_mini/")
    print(machine())
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        scratch = Path(folder)
        os.environ["UNTAUGHT_CACHE"] = str(scratch / "cache")
        written, rows, first = write_shards(scratch, asked.kind, asked.image), [], 0.0
        shutil.rmtree(scratch / "photos")
        for gigabytes in asked.gigabytes:
            data = scratch / f"{gigabytes:g}GB"
            data.mkdir()
            for number in range(max(2, round(gigabytes * 1e9 / SHARD))):
                (data / f"shard-{number:05}.{asked.kind}").hardlink_to(written[number % WRITTEN])
            size = sum(path.stat().st_size for path in data.iterdir())
            peak, samples, seconds = run(data, scratch / f"run{gigabytes:g}")
            quarter = max(1, len(samples) // 4)
            ends = [f"{statistics.median(part):.0f}" for part in (samples[:quarter], samples[-quarter:])]
            first = first or peak
            rows.append([f"{size / 1e9:.1f} GB", f"{peak:.0f}", f"{peak / first:.2f}", *ends, f"{seconds:.0f}"])
    print(f"\none epoch of {asked.kind} shards of {asked.image} files\n")
    print(table(["data", "peak MiB", "to the first", "median of the first quarter", "of the last", "seconds"], rows))


if __name__ == "__main__":
    main()
