"""Text: training steps beside transformers' and plain PyTorch's, memory of a large vocabulary, speed of packing.

python benchmarks/text.py [--part mlm memory packing gigabyte] [--rounds 3] [--steps 2] [--shakespeare 0]

mlm: a step of BERT with 4 layers of 256, 30,000 words, length 128, batch 64, dropout as there: ours (the whole step of the loop: views,
forward, backward, optimizer) beside transformers' BertForMaskedLM as its examples train it (scores of every token, AdamW), each in float32
and in bf16, taking turns; tokens a second of the processor's time, so that with OMP_NUM_THREADS=1 other jobs weigh less, or (--wall)
of the clock's.
memory: the peak of resident memory of a clm step, 50,000 words, batch 32 x 512, width 256, 4 layers, over what the model takes; each in a
process of its own. packing: a corpus into the store beside `tokenizers`' encode_batch of the same texts. gigabyte: the peak of resident
memory of packing 0.1 and 1 GB of text, its tokenizer learned before, each in a process of its own. --shakespeare N trains the
character model of nanoGPT's CPU setting for N steps in our loop, by Muon and by AdamW, and in a plain one, one after the other, and says
loss and time of each.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rounds import machine, table, take_turns
from torch import Tensor, nn

from untaught.core import Preprocessor

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
V, T, B = 30_000, 128, 64  # the default batch of text


class _Ids:
    """Batches of random ids, as a loader's."""

    steps_per_epoch = 1 << 20

    def __init__(self, rows: int, length: int, vocabulary: int) -> None:
        self.batch = {"ids": torch.randint(5, vocabulary, (rows, length + 1), dtype=torch.int32), "index": torch.arange(rows)}

    def batches(self, epoch: int, step: int = 0) -> Any:
        while True:
            yield self.batch


def ours(name: str, encoder: Any, rows: int, length: int, vocabulary: int, **knobs: Any) -> Callable[[], None]:
    """One step of our loop, views included."""
    from untaught.config.registry import method_class
    from untaught.config.train_config import TrainConfig
    from untaught.core import Facts
    from untaught.modalities.text import TEXT
    from untaught.pipeline.view_pipeline import Views, view_names, view_options
    from untaught.training.step import TrainingStep

    cls: Any = method_class(name)
    layout = {"length": length, "special": SPECIAL, "vocabulary": vocabulary, "tokenizer": ""}
    names = view_names(cls, TEXT)
    views = Views(names, Preprocessor(TEXT, {}, layout), view_options(names, Preprocessor(TEXT, layout), {}), seed=0)
    data = _Ids(rows, length, vocabulary)
    method = cls(encoder, Facts(rows))
    train_config = TrainConfig(steps=1 << 20, batch_size=rows, lr=1e-3, **knobs)
    train_step, done = TrainingStep(method.train(), train_config), itertools.count()
    return lambda: train_step(next(done), views(data.batch, 0), 0.0) and None


def plain(model: Any, batch: Callable[[], dict[str, Tensor]], bf16: bool) -> Callable[[], None]:
    """One step as transformers' examples have it."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def mlm(rounds: int, steps: int, clock: Callable[[], float]) -> None:
    from transformers import BertConfig, BertForMaskedLM

    from untaught.encoders.language import bert

    def masked() -> dict[str, Tensor]:
        ids = torch.randint(5, V, (B, T))
        hidden = torch.rand(B, T) < 0.15
        return {"input_ids": ids.masked_fill(hidden, 4), "labels": ids.masked_fill(~hidden, -100)}

    config = BertConfig(
        vocab_size=V, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, max_position_embeddings=T
    )
    size: Any = {"vocabulary": V, "length": T, "special": SPECIAL}
    contestants = {
        "untaught, default": ours("mlm", bert(**size), B, T, V),
        "untaught, AdamW, bf16": ours("mlm", bert(**size), B, T, V, optimizer="adamw"),
        "untaught, AdamW, float32": ours("mlm", bert(**size), B, T, V, optimizer="adamw", precision="float32"),
        "transformers, float32": plain(BertForMaskedLM(config), masked, False),
        "transformers, bf16": plain(BertForMaskedLM(config), masked, True),
    }
    times = take_turns({name: _many(step, steps) for name, step in contestants.items()}, rounds, clock)
    tokens = {name: B * T / found.median for name, found in times.items()}
    rows = [
        [name, f"{tokens[name]:,.0f}", *(f"{tokens[name] / tokens[peer]:.1f}" for peer in ("transformers, float32", "transformers, bf16"))]
        for name in contestants
    ]
    print(table(["mlm", "tokens/s", "over float32", "over bf16"], rows), "\n")


def _many(step: Callable[[], None], steps: int) -> Callable[[], int]:
    def work() -> int:
        for _ in range(steps):
            step()
        return steps

    return work


def memory() -> None:
    rows = []
    for name in ("untaught", "plain"):
        out = subprocess.run([sys.executable, __file__, "--memory-of", name], capture_output=True, text=True, check=True).stdout
        rows.append([name, *out.split()])
    print(table(["clm, 50,000 words, 32 x 512", "before, MiB", "peak over it, MiB"], rows), "\n")


def memory_of(name: str) -> None:
    from untaught.encoders.language import gpt

    size: Any = {"vocabulary": 50_000, "length": 512, "special": SPECIAL}
    encoder: Any = gpt(**size)
    if name == "untaught":
        step = ours("clm", encoder, 32, 512, 50_000, optimizer="adamw")
    else:
        ids = torch.randint(5, 50_000, (32, 512))
        step = plain(encoder.language, lambda: {"input_ids": ids, "labels": ids}, True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    print(before // 1024, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)


def packing(rounds: int) -> None:
    from untaught.data.sources import open_source
    from untaught.data.store import pack
    from untaught.modalities.text import TEXT
    from untaught.modalities.tokenizer import tokenizer_of
    from untaught.pipeline.preprocessor import plan

    folder = Path(tempfile.mkdtemp())
    lines = [line for _ in range(20) for line in _corpus()]
    (folder / "corpus.txt").write_text("\n".join(lines))
    os.environ["UNTAUGHT_CACHE"] = str(folder)
    source = open_source(str(folder / "corpus.txt"), TEXT, columns={"text": "line"})
    prep = plan(source, [{"text": lines[0]}], TEXT, {"vocabulary": 8000})
    tokenizer = tokenizer_of(prep)
    count = [0]

    def own() -> int:
        count[0] += 1
        store = pack(source, prep, cache=folder / str(count[0]))
        return len(store.columns["ids"])

    def theirs() -> int:
        return sum(len(encoded.ids) + 1 for encoded in tokenizer.encode_batch(lines, add_special_tokens=False))

    times = take_turns({"untaught, into a store": own, "tokenizers, encode_batch": theirs}, rounds, clock=time.perf_counter)
    speeds = {name: 1 / found.median for name, found in times.items()}
    rows = [[name, f"{speed:,.0f}", f"{speed / speeds['tokenizers, encode_batch']:.2f}"] for name, speed in speeds.items()]
    print(table([f"packing {sum(map(len, lines)) / 1e6:.0f} MB", "tokens/s", "ratio"], rows), "\n")


def gigabyte() -> None:
    folder = Path(tempfile.mkdtemp())
    lines = "\n".join(_corpus()) + "\n"
    rows = []
    for size in (100, 1000):
        with (folder / "corpus.txt").open("w") as file:
            for _ in range(size * 1_000_000 // len(lines.encode())):
                file.write(lines)
        command = [sys.executable, __file__, "--pack-of", str(folder / "corpus.txt")]
        learned = os.environ | {"UNTAUGHT_CACHE": str(folder)}
        subprocess.run([*command, "learn"], check=True, env=learned)
        out = subprocess.run([*command, "pack"], capture_output=True, text=True, check=True, env=learned).stdout
        rows.append([f"{size} MB", *out.split()])
    print(table(["text", "documents", "seconds", "peak MiB"], rows), "\n")


def pack_of(path: str, what: str) -> None:
    from untaught.data.sources import open_source
    from untaught.data.store import pack
    from untaught.modalities.text import TEXT
    from untaught.pipeline.preprocessor import plan

    source = open_source(path, TEXT, columns={"text": "line"})
    prep = plan(source, [{"text": "a line"}], TEXT, {"vocabulary": 8000})
    if what == "pack":
        began = time.perf_counter()
        store = pack(source, prep)
        print(len(store), f"{time.perf_counter() - began:.0f}", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def _corpus() -> list[str]:
    file = DATA / "wikitext2_part" / "valid.txt"
    if file.exists():
        return [line for line in file.read_text().splitlines() if line.strip()]
    from pydoc_data.topics import topics

    return [line for text in topics.values() for line in text.splitlines() if line.strip()]


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _NanoGPT(nn.Module):
    """Written plainly: the network of nanoGPT's train_shakespeare_char on a CPU."""

    def __init__(self, vocabulary: int, length: int = 64, width: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        for embedding in (self.words, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.norm(self.blocks(x)) @ self.words.weight.T


def shakespeare(steps: int) -> None:
    """nanoGPT's CPU setting: 4 layers, 4 heads, width 128, block 64, batch 12, AdamW 1e-3 with 100 steps of warmup, cosine to 1e-4."""
    text = (DATA / "tinyshakespeare" / "input.txt").read_text()
    cut = int(0.9 * len(text))
    folder = Path(tempfile.mkdtemp())
    (folder / "data").mkdir()
    (folder / "data" / "train.txt").write_text(text[:cut])
    (folder / "data" / "val.txt").write_text(text[cut:])
    knobs = [f"steps={steps}", "batch_size=12", "length=64", "tokenizer=characters", "evaluate_every=0", "health_every=0", "log_every=100"]
    size = ["encoder.width=128", "encoder.depth=4", "encoder.heads=4"]
    command = [sys.executable, "-m", "untaught.cli", "pretrain", str(folder / "data"), "--modality", "text", "--method", "clm"]
    for name, own in (("muon", []), ("adamw", ["optimizer=adamw", "lr=1e-3"])):
        run = subprocess.run([*command, "--out", str(folder / name), *knobs, *size, *own], capture_output=True, text=True)
        said = [line for line in run.stderr.splitlines() if line.startswith(("held out", "trained", "training", "error"))]
        print("untaught: " + "; ".join(" ".join(line.split()) for line in said))

    numbers = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([numbers[character] for character in text])
    train, held = ids[:cut], ids[cut:]
    model = _NanoGPT(len(numbers))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    began = time.perf_counter()
    for step in range(steps):
        share = step / 100 if step < 100 else 0.1 + 0.45 * (1 + torch.tensor(step / steps * 3.14159).cos().item())
        optimizer.param_groups[0]["lr"] = 1e-3 * min(share, 1.0)
        starts = torch.randint(len(train) - 65, (12, 1)) + torch.arange(65)
        some = train[starts]
        loss = F.cross_entropy(model(some[:, :-1]).flatten(0, 1), some[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        windows = held[: len(held) // 64 * 64 - 63].unfold(0, 65, 64)
        scores = model.eval()(windows[:, :-1])
        print(
            f"plain: {steps} steps in {seconds:.0f} s; held out {F.cross_entropy(scores.flatten(0, 1), windows[:, 1:].flatten()):.3f} nats"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="*", default=["mlm", "memory", "packing"], choices=["mlm", "memory", "packing", "gigabyte"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--shakespeare", type=int, default=0)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--pack-of", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of:
        memory_of(asked.memory_of)
        return
    if asked.pack_of:
        pack_of(*asked.pack_of)
        return
    print(machine(), "\n")
    if "mlm" in asked.part:
        mlm(asked.rounds, asked.steps, time.perf_counter if asked.wall else time.process_time)
    if "memory" in asked.part:
        memory()
    if "packing" in asked.part:
        packing(asked.rounds)
    if "gigabyte" in asked.part:
        gigabyte()
    if asked.shakespeare:
        shakespeare(asked.shakespeare)


if __name__ == "__main__":
    main()
