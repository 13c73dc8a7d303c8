"""What a pretraining run prints and writes of itself: decisions before the first step, health and scores after the last."""

from __future__ import annotations

from pathlib import Path

import torch

from untaught.console import say, size_text, warn
from untaught.core import Encoder, Method, Options
from untaught.data.stream import Stream
from untaught.evaluation.evaluator import Scorer, merge_rows
from untaught.methods.composite import Hybrid
from untaught.pipeline.dataset import Dataset
from untaught.training.trainer import Trainer
from untaught.training.validation import HeldOut

MEASURES = (("effective_rank", 0), ("std", 2))  # of health that are said, and their digits


def print_decisions(run: Options, dataset: Dataset, method: Method, trainer: Trainer) -> None:
    """What was decided, before the first step."""
    recipe, layout, encoder = trainer.recipe, dataset.layout, method.kept
    stored = f"stored in {size_text(dataset.store.bytes)}" if dataset.store else "streamed"
    if getattr(trainer.batches, "held", None):
        stored += f", held on {trainer.train_step.device}"
    say(f"split     {dataset.how_split}" if dataset.how_split else "split     everything is trained on")
    say("layout    " + ", ".join(f"{key} {value}" for key, value in layout.items()) + f"; {stored}")
    if isinstance(trainer.batches, Stream):
        say(f"stream    {trainer.batches.how}")
    say(
        f"method    {run['method']}: views {', '.join(trainer.views.names)}; "
        + " ".join(f"{k}={v}" for k, v in run["resolved"]["method"].items())
    )
    for option, why in trainer.views.told.items():
        say(f"views     {option}, {why}")
    weights = sum(p.numel() for p in encoder.parameters())
    say(f"encoder   {run['encoder']}, {weights / 1e6:.1f} M weights, {encoder.width} features")
    if isinstance(method, Hybrid) and method.how_kept:
        say(f"kept      {method.how_kept}")
    length = f"epochs={recipe.epochs}" if recipe.epochs else f"steps={recipe.steps}" if recipe.steps else f"minutes={recipe.minutes:g}"
    precision, device = "bf16" if trainer.train_step.bf16 else "float32", trainer.train_step.device
    threads = f"{torch.get_num_threads()} threads"
    place = f"cpu, {threads}" if device.type == "cpu" else str(device)
    if trainer.group.size > 1:
        place = f"{trainer.group.size} processes" + (f" of {threads}" if device.type == "cpu" else f", a {device.type} device each")
    say(f"training  {length} batch_size={recipe.batch_size} {recipe.optimizer} lr={recipe.lr:g} {precision} on {place}")


def print_health(looked: Options) -> None:
    """The verdict of the last look, at the end of a run."""
    if not looked:
        return
    if looked["because"]:
        warn(f"collapsing because {looked['because']}; try {looked['try']}")
        return
    rank, std = (f"{looked[key]:.{digits}f} (untrained {looked[f'{key}_untrained']:.{digits}f})" for key, digits in MEASURES)
    say(f"health    healthy: effective rank {rank}, spread {std}")


def report_loss(held_out: HeldOut, folder: Path, data: str) -> None:
    """The loss on the held-out part: said, and written to evaluation.json."""
    found = {name.removeprefix("held_out_"): value for name, value in held_out().items()}
    say(f"held out  {', '.join(f'{name} {value:.3f} nats' for name, value in found.items())} on {held_out.part}")
    rows = [{"features": "encoder", "probe": "loss", "labels": "none", "metric": name, "mean": round(v, 6)} for name, v in found.items()]
    merge_rows(folder / "evaluation.json", [row | {"data": data} for row in rows])


def report_scores(scorer: Scorer, encoder: Encoder, untrained: Encoder, folder: Path) -> None:
    """kNN of the encoder beside its random initialisation and raw features: said, and written to evaluation.json."""
    networks: list[tuple[str, Encoder | None]] = [("encoder", encoder), ("random_init", untrained), ("raw", None)]
    rows = [row for features, network in networks for row in scorer.knn(features, network)]
    merge_rows(folder / "evaluation.json", rows)
    said = {"encoder": "encoder", "random_init": "same encoder, untrained", "raw": "raw data"}
    for probe in dict.fromkeys(row["probe"] for row in rows):
        scores = {row["features"]: row["mean"] for row in rows if row["probe"] == probe and row["metric"] == "accuracy"}
        shown = ", ".join(f"{said[features]} {100 * score:.1f}%" for features, score in scores.items())
        say(f"kNN k={probe[3:]:<3} {shown}  ({len(scorer.queries)} of {scorer.held_out}, bank of {len(scorer.bank)})")
