"""Console output of a pretraining run: the resolved setup before the first step, health and scores after the last."""

from __future__ import annotations

from pathlib import Path

import torch

from untaught.commands.request import LENGTHS
from untaught.console import say, size_text, warn
from untaught.core import Encoder, Method, Options
from untaught.data.stream import Stream
from untaught.evaluation.evaluate import HEADINGS
from untaught.evaluation.evaluator import Scorer, merge_rows
from untaught.evaluation.metrics import is_main, metric_of, shown
from untaught.evaluation.next_item import NextItem
from untaught.evaluation.pairs import Encoders, PairScorer
from untaught.methods.composite import Hybrid
from untaught.pipeline.dataset import Dataset
from untaught.training.trainer import Trainer
from untaught.training.validation import HeldOut

BITS = "bits_per_dim"  # the term of a density
LONG = 200  # characters of a setting, above which only its length is printed
MEASURES = (("effective_rank", 0), ("std", 2))  # printed health measures and their decimals


def print_decisions(run: Options, dataset: Dataset, method: Method, trainer: Trainer, defaults: tuple[str, str]) -> None:
    """Prints the resolved setup, before the first step. defaults: "paper" or "short", and why."""
    train_config, settings = trainer.train_config, dataset.prep.settings
    stored = f"stored in {size_text(dataset.store.bytes)}" if dataset.store else "streamed"
    if getattr(trainer.batches, "held", None):
        stored += f", cached on {trainer.train_step.device}"
    say(f"split     {dataset.how_split}" if dataset.how_split else "split     none: training on all samples")
    short = {key: f"{len(value)} of them" if len(str(value)) > LONG else value for key, value in settings.items() if value != ""}
    say("input     " + ", ".join(f"{key} {value}" for key, value in short.items()) + f"; {stored}")
    if isinstance(trainer.batches, Stream):
        say(f"stream    {trainer.batches.how}")
    say(
        f"method    {run['method']}: views {', '.join(trainer.views.names)}; "
        + " ".join(f"{k}={v}" for k, v in run["resolved"]["method"].items())
    )
    for option, why in trainer.views.adjusted.items():
        say(f"views     {option}, {why}")
    for remark in dataset.modality.remarks(trainer.views.names, settings):
        say(f"views     {remark}")
    exported = method.exported()
    for role, encoder in exported.items():
        weights = sum(p.numel() for p in encoder.parameters())
        name = f"{role}={run['encoder'][role]}" if len(exported) > 1 else run["encoder"]
        frozen = "" if any(p.requires_grad for p in getattr(method, role).parameters()) else ", frozen"
        say(f"encoder   {name}, {weights / 1e6:.1f} M weights, {encoder.width} features{frozen}")
    if isinstance(method, Hybrid) and method.export_note:
        say(f"exported  {method.export_note}")
    length = next(f"{name}={value:.12g}" for name in LENGTHS if (value := getattr(train_config, name)))
    precision, device = "bf16" if trainer.train_step.bf16 else "float32", trainer.train_step.device
    threads = f"{torch.get_num_threads()} threads"
    place = f"cpu, {threads}" if device.type == "cpu" else str(device)
    if trainer.group.size > 1:
        place = f"{trainer.group.size} processes" + (
            f" with {threads} each" if device.type == "cpu" else f", one {device.type} device each"
        )
    if method.paper:
        named, why = defaults
        say("defaults  " + ("the paper's" if named == "paper" else "for short runs") + (f" ({why})" if why else ""))
    say(f"training  {length} batch_size={train_config.batch_size} {train_config.optimizer} lr={train_config.lr:g} {precision} on {place}")


def print_health(health: Options) -> None:
    """Prints the verdict of the last health check, at the end of a run."""
    if not health:
        return
    if health["because"]:
        warn(f"collapsing because {health['because']}; try {health['try']}")
        return
    rank, std = (f"{health[key]:.{digits}f} (random init {health[f'{key}_random_init']:.{digits}f})" for key, digits in MEASURES)
    say(f"health    healthy: effective rank {rank}, std {std}")


def report_held_out(held_out: HeldOut, folder: Path, data: str) -> None:
    """Prints the loss on the held-out part, and the accuracy of a pretext task beside chance, and writes them to evaluation.json."""
    found = {name.removeprefix("held_out_"): value for name, value in held_out().items()}
    chance = held_out.method.chance
    texts = {name: f"{name} {value:.3f} nats" for name, value in found.items()}
    if BITS in found:
        texts[BITS] = f"{found[BITS]:.3f} bits per dimension"
    rows = [("encoder", name, value) for name, value in found.items()]
    if chance:
        texts["accuracy"] = f"accuracy {shown('accuracy', found['accuracy'])} (chance {shown('accuracy', chance)})"
        rows.append(("chance", "accuracy", chance))
    say(f"held out  {', '.join(texts.values())} on {held_out.part}")
    probe = "pretext" if chance else "loss"
    rows = [{"features": who, "probe": probe, "labels": "none", "metric": name, "mean": round(value, 6)} for who, name, value in rows]
    merge_rows(folder / "evaluation.json", [row | {"data": data} for row in rows])


def report_scores(scorer: Scorer, encoder: Encoder, random_init: Encoder, folder: Path) -> None:
    """Prints kNN scores of the encoder, its random init and raw features, and writes them to evaluation.json."""
    networks: list[tuple[str, Encoder | None]] = [("encoder", encoder), ("random_init", random_init), ("raw", None)]
    rows = [row for features, network in networks for row in scorer.knn(features, network)]
    merge_rows(folder / "evaluation.json", rows)
    titles = {"encoder": "encoder", "random_init": "same encoder, random init", "raw": "raw data"}
    main = [row for row in rows if is_main(row["metric"])]
    for probe in dict.fromkeys(row["probe"] for row in main):
        own = [row for row in main if row["probe"] == probe]
        scores = ", ".join(f"{titles[row['features']]} {shown(row['metric'], row['mean'])}" for row in own)
        metric = "" if own[0]["metric"] == "accuracy" else f"{metric_of(own[0]['metric']).title} "
        say(f"kNN k={probe[3:]:<3} {metric}{scores}  ({len(scorer.queries)} of {scorer.held_out}, bank of {len(scorer.bank)})")


def report_next_item(ranker: NextItem, encoder: Encoder, random_init: Encoder, folder: Path | None) -> list[Options]:
    """Prints the next-item ranking of the encoder, random init and the classical recommenders, the best first, and writes it to
    evaluation.json of the folder."""
    ranker.describe()
    rows, found = ranker.measure("encoder", encoder)
    others, drawn = ranker.measure("random_init", random_init)
    classical, scores = ranker.baselines()
    rows += others + classical
    if folder is not None:
        merge_rows(folder / "evaluation.json", rows)
    metric = next(iter(found))
    for row in sorted((row for row in rows if row["metric"] == metric), key=lambda row: -row["mean"]):
        name = row["features"]
        hits = next(one for one in rows if one["features"] == name and one["metric"] != metric)
        line = f"next item {HEADINGS.get(name, name.replace('_', ' ')):<18}"
        line += "".join(f"  {metric_of(one['metric']).title} {100 * one['mean']:4.1f}%" for one in (row, hits))
        line += f" ({100 * row['low']:.1f} to {100 * row['high']:.1f} / {100 * hits['low']:.1f} to {100 * hits['high']:.1f})"
        if name != "encoder":
            gain = found[metric] - (drawn if name == "random_init" else scores[name])[metric]
            low, high = gain.interval
            line += f", encoder {100 * gain.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        say(line)
    return rows


def report_retrieval(
    scorer: PairScorer, encoders: Encoders, heads: Encoders, random_init: Encoders, random_heads: Encoders, folder: Path | None
) -> list[Options]:
    """Prints recall in both directions with random init and chance, and writes it to evaluation.json of the folder."""
    rows, found = scorer.measure("encoder", encoders, heads)
    others, baseline = scorer.measure("random_init", random_init, random_heads)
    at_random = scorer.chance()
    if folder is not None:
        merge_rows(folder / "evaluation.json", [*rows, *others, *at_random])
    for row, one in zip(rows, at_random, strict=True):
        metric = row["metric"]
        gain = found[metric] - baseline[metric]
        low, high = gain.interval
        way, _, k = metric.partition("_recall@")
        say(
            f"{way.replace('_', ' ')}, recall@{k:<2} {100 * row['mean']:.1f}% ({100 * row['low']:.1f} to {100 * row['high']:.1f}), "
            f"random init {100 * baseline[metric].mean:.1f}%, difference {100 * gain.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}), "
            f"chance {100 * one['mean']:.1f}%"
        )
    return [*rows, *others, *at_random]
