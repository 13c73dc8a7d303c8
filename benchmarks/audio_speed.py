"""Sound, one thread: log-mel spectrograms and views of a batch against a loader that makes them sample by sample, and packing of hours.

python benchmarks/audio_speed.py [--rounds 5] [--batch 128] [--hours 10] [--only views|packing]        (pip install librosa for that peer)

Views: emodb, 408 utterances of 2 s at 16 kHz. All start from the same 16-bit samples in memory and end with a batch (B, frames, 64) of
normalised log-mel spectrograms: of whole recordings, and of two random views by the preset `global`, with the same probabilities and
strengths for everyone (crop, polarity, reverberation, band filter, noise, gain, mixture, stretch, zoom and shift, one mask each of time and
bands). The per-sample loader is a torch DataLoader without workers over a data set that transforms one recording after another, as is
usual: with torch.stft, and with librosa if it can be imported. Time is the processor's (the machine may be shared), and the wall's beside
it. Contestants take turns; the ratio is of medians.

Packing: hours of 16 kHz FLAC, recordings of ten minutes joined from emodb's utterances in another order each, into a store with pieces of
30 s, cold. Processor time over all threads; peak memory is that of a fresh process, less what it has after its imports, and pages of files
don't count.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from rounds import machine, table, take_turns
from torch.utils.data import DataLoader, Dataset

from untaught.core import Preprocessor
from untaught.modalities.audio import AUDIO
from untaught.modalities.audio.augment import DECAY, ECHO, SLOPE
from untaught.modalities.audio.decode import plan
from untaught.ops.log_mel import FLOOR, mel_filters
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.view_pipeline import Views

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
RATE, WINDOW, HOP, SIZE, MELS = 16_000, 400, 160, 512, 64
MINUTES = 10  # of a recording to pack
Work = Callable[[], int]


def utterances() -> list[np.ndarray]:
    """int16 (T,) each."""
    with zipfile.ZipFile(DATA / "emodb" / "clips.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".flac"))
        return [soundfile.read(io.BytesIO(archive.read(name)), dtype="int16")[0] for name in names]


class OneByOne(Dataset):
    """Recordings as spectrograms, made one by one: whole ones, or two views of each. by: torch or librosa."""

    def __init__(self, waves: list[np.ndarray], options: dict | None, mean: float, std: float, by: str) -> None:
        self.waves, self.options, self.mean, self.std, self.by = waves, options, mean, std, by
        self.random = np.random.default_rng(0)
        self.filters, self.hann = mel_filters(RATE, SIZE, MELS), torch.hann_window(WINDOW)
        if by == "librosa":
            import librosa  # pyright: ignore[reportMissingImports] -- a peer, installed by hand

            self.librosa = librosa

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, number: int) -> list[torch.Tensor]:
        wave = self.waves[number].astype(np.float32) / 32768
        if self.options is None:
            return [self.normalised(self.log_mel(wave))]
        return [self.view(wave, self.options) for _ in range(2)]

    def log_mel(self, wave: np.ndarray) -> torch.Tensor:
        """-> (F,M)."""
        if self.by == "librosa":
            shape = {"n_fft": SIZE, "hop_length": HOP, "win_length": WINDOW, "pad_mode": "constant"}
            mel = self.librosa.feature.melspectrogram(y=wave, sr=RATE, n_mels=MELS, fmin=50.0, htk=True, norm=None, **shape)
            return torch.from_numpy(np.log(mel.T + FLOOR))
        x = torch.stft(torch.from_numpy(wave), SIZE, HOP, WINDOW, self.hann, pad_mode="constant", return_complex=True)
        return (x.abs().square().T @ self.filters + FLOOR).log()

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std

    def view(self, wave: np.ndarray, o: dict) -> torch.Tensor:
        draw = self.random
        long = max(1, round(draw.uniform(*o["scale"]) * len(wave)))
        start = draw.integers(len(wave) - long + 1)
        wave = wave[start : start + long]
        level = math.sqrt(np.square(wave).mean())
        if draw.random() < o["polarity"]:
            wave = -wave
        if draw.random() < o["reverb"]:
            count = round(ECHO * RATE)
            tail = draw.standard_normal(count, np.float32) * np.exp(-DECAY * np.linspace(0, 1, count, dtype=np.float32))
            tail /= math.sqrt(np.square(tail).sum())
            size = 1 << (long + len(tail)).bit_length()
            echo = np.concatenate([np.ones(1, np.float32), draw.uniform() * tail])
            wave = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(echo, size), size)[:long].astype(np.float32)
        if draw.random() < o["band"]:
            octave = np.log2(np.maximum(np.linspace(0, RATE / 2, long // 2 + 1), 1.0))
            low, high = math.log2(50) + 4 * draw.random(), math.log2(RATE / 2) - 3 * draw.random()
            passed = 1 / (1 + np.exp(-SLOPE * (octave - low))) / (1 + np.exp(-SLOPE * (high - octave)))
            wave = np.fft.irfft(np.fft.rfft(wave) * passed, long).astype(np.float32)
        wave = wave * (level / max(math.sqrt(np.square(wave).mean()), 1e-7))
        if draw.random() < o["noise"]:
            wave = wave + level * 10 ** (-draw.uniform(*o["snr"]) / 20) * draw.standard_normal(long, np.float32)
        wave = (wave * 10 ** (o["gain"] * draw.uniform(-1, 1) / 20)).astype(np.float32)
        x = self.log_mel(wave)
        other = self.waves[draw.integers(len(self.waves))].astype(np.float32) / 32768
        share = draw.uniform(0, o["mix"])
        mixed = self.log_mel(other[: (len(x) - 1) * HOP + 1])
        count = min(len(x), len(mixed))
        x[:count] = torch.logaddexp(x[:count] + math.log(1 - share), mixed[:count] + math.log(max(share, 1e-6)))
        time_factor, band_factor = (math.exp(draw.uniform(-1, 1) * math.log1p(o[name])) for name in ("stretch", "zoom"))
        shift = draw.uniform(-1, 1) * o["shift"] * MELS
        frames = max(1, round(len(x) / time_factor))
        bands = torch.linspace(-1, 1, MELS) * band_factor + 2 * shift / MELS
        times = torch.linspace(-1, 1, frames)
        grid = torch.stack(torch.meshgrid(times, bands, indexing="ij")[::-1], -1)
        x = torch.nn.functional.grid_sample(x[None, None], grid[None], align_corners=True, padding_mode="border")[0, 0]
        x = self.normalised(x)
        for axis, share in ((0, o["time_mask"]), (1, o["mel_mask"])):
            wide = draw.uniform() * share * x.shape[axis]
            first = round(draw.uniform() * (x.shape[axis] - wide))
            x.narrow(axis, first, round(wide)).zero_()
        return x


def together(samples: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.nn.utils.rnn.pad_sequence(list(view), batch_first=True) for view in zip(*samples, strict=True)]


def views(rounds: int, batch_size: int) -> None:
    waves = utterances()
    records = [{"audio": wave, "rate": RATE, "name": str(i)} for i, wave in enumerate(waves)]
    prep = Preprocessor(AUDIO, plan(records, {}))
    prep = prep.fitted(batch_of(records, prep)[0])
    batch, _ = batch_of(records[:batch_size], prep)
    first = waves[:batch_size]
    (mean,), (std,) = prep.statistics["mean"], prep.statistics["std"]
    presets = prep.presets()
    rows = []
    for what, names in (("log-mel of whole recordings", ("whole",)), ("two views, preset global", ("global", "global"))):
        options = [presets[name] for name in names]
        maker, epoch = Views(names, prep, options, seed=0), iter(range(1 << 30))

        def ours(maker: Views = maker, epoch=epoch) -> int:
            maker(batch, next(epoch))
            return batch_size

        contestants: dict[str, Work] = {"untaught": ours}
        for by in ("torch", "librosa"):
            try:
                peer = OneByOne(first, options[0] if len(names) > 1 else None, mean, std, by)
            except ImportError:
                continue
            loader = DataLoader(peer, batch_size, collate_fn=together)
            contestants[f"a sample at a time, {by}"] = lambda loader=loader: sum(len(each[0]) for each in loader)
        walls: dict[str, list[float]] = {name: [] for name in contestants}

        def timed(name: str, work: Work, walls: dict[str, list[float]] = walls) -> Work:
            def run() -> int:
                began = time.perf_counter()
                units = work()
                walls[name].append((time.perf_counter() - began) / units)
                return units

            return run

        times = take_turns({name: timed(name, work) for name, work in contestants.items()}, rounds)
        own = times["untaught"].median
        for name, t in times.items():
            wall = statistics.median(walls[name][1:])
            spread = f"{1 / max(t.seconds):.0f} to {1 / t.best:.0f}"
            rows.append([what, name, f"{1 / t.median:.0f}", spread, f"{1 / wall:.0f}", f"{t.median / own:.1f}"])
    head = ["", "", "samples a second of the processor", "lowest to highest", "by the clock", "times of untaught"]
    print(f"\n{batch_size} recordings of 2 s at 16 kHz a batch\n\n{table(head, rows)}")


def record(folder: Path, hours: float) -> None:
    """Recordings of MINUTES each, of all utterances in another order."""
    waves, random = utterances(), np.random.default_rng(0)
    for number in range(round(hours * 60 / MINUTES)):
        joined = np.concatenate([waves[i] for i in random.permutation(np.resize(np.arange(len(waves)), 2 * len(waves)))])
        soundfile.write(folder / f"{number:04}.flac", np.resize(joined, MINUTES * 60 * RATE), RATE)


def packed(folder: Path, cache: Path) -> None:
    """In a fresh process: prints processor and wall seconds, MiB of anonymous memory before and at its peak, and pieces."""
    import threading

    from untaught.data.pieces import cut_source
    from untaught.data.sources import open_source
    from untaught.data.store import pack

    def anonymous() -> float:
        return next(
            int(line.split()[1]) / 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")
        )

    before = peak = anonymous()

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, anonymous())
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    own = resource.getrusage(resource.RUSAGE_SELF)
    wall = time.perf_counter()
    source = open_source(folder, AUDIO)
    prep = Preprocessor(AUDIO, plan(list(source.parts["all"])[:10], {}))
    store = pack(cut_source(source, lambda one: AUDIO.cut(one, prep.settings), 0), prep, cache=cache)  # type: ignore[misc]
    spent = resource.getrusage(resource.RUSAGE_SELF)
    processor = spent.ru_utime + spent.ru_stime - own.ru_utime - own.ru_stime
    print(processor, time.perf_counter() - wall, before, peak, len(store))


def packing(hours: float, rounds: int) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "sound"
        folder.mkdir()
        record(folder, hours)
        few = Path(scratch) / "few"  # a tenth of it: memory must not grow with the data
        few.mkdir()
        for file in sorted(folder.iterdir())[:: max(1, round(hours * 60 / MINUTES / 6))]:
            os.link(file, few / file.name)
        for place in (few, folder):
            found = []
            for turn in range(rounds):
                command = [sys.executable, __file__, "--pack", str(place), str(Path(scratch) / f"cache{place.name}{turn}")]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
                found.append([float(value) for value in said])
            seconds = len(list(place.iterdir())) * MINUTES * 60
            processor, wall, before, peak, pieces = (statistics.median(column) for column in zip(*found, strict=True))
            each = [seconds / one[0] for one in found]
            memory = f"{peak - before:.0f} MiB over {before:.0f}"
            speed = f"{seconds / processor:.0f} ({min(each):.0f} to {max(each):.0f})"
            rows.append([f"{seconds / 3600:.3g} h", f"{pieces:.0f}", speed, f"{seconds / wall:.0f}", memory])
    print(f"\n{table(['sound', 'pieces', 'times real time, of one core', 'by the clock', 'peak memory'], rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--only", choices=("views", "packing"))
    parser.add_argument("--pack", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.pack:
        packed(*asked.pack)
        return
    if not (DATA / "emodb").exists():
        sys.exit(f"no data in {DATA.resolve()}; set UNTAUGHT_DATA to the folder that holds emodb/")
    print(machine())
    if asked.only != "packing":
        views(asked.rounds, asked.batch)
    if asked.only != "views":
        packing(asked.hours, min(asked.rounds, 3))


if __name__ == "__main__":
    main()
