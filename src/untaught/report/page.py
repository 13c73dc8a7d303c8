"""report.html: one self-contained file made from a run folder."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from untaught.config.registry import from_python
from untaught.console import escaped
from untaught.core import Options
from untaught.evaluation.forecasts import NAMES as FORECASTS
from untaught.evaluation.metrics import LEADING, is_main, metric_of, shown
from untaught.report.advice import RECOMMENDERS, advise
from untaught.report.charts import WIDTH, Curve, Point, chart, number, percent, thin
from untaught.report.run_summary import RunSummary, gather
from untaught.storage.atomic import write_text
from untaught.storage.ownership import check_replaceable

NAMES = {"encoder": "this encoder", "random_init": "same encoder, random init", "raw": "raw data", "copy": "first mask, unchanged"}
NAMES |= {name: title for name, title in FORECASTS.items() if name not in NAMES}
COLOURED = ("encoder", "random_init", "raw")  # of their own in the page's style
NAMES |= RECOMMENDERS
PROBES = {
    "linear": "Linear probe",
    "linear-inner": "Linear probe, best inner layer",
    "ridge": "Ridge regression",
    "ridge-inner": "Ridge regression, best inner layer",
    "frozen": "Linear head on the frozen encoder",
    "retrieval": "Retrieval",
    "verification": "Pairs of samples",
    "next_item": "Next item, full ranking, items of the history filtered",
    "finetune": "Fine-tuned",
    "finetune-partial": "Fine-tuned, last layers",
    "finetune-frozen": "Frozen, trained head",
    "kmeans": "k-means",
    "pretext": "Pretext task, held-out samples",
    "spectrum": "Spectrum",
}
HEALTH = {
    "effective_rank": "effective rank",
    "std": "std",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "teacher_lag": "teacher lag",
    "gradient_norm": "gradient norm",
}
SHARES = {"data": "waiting for data", "views": "making views", "compute": "computing"}
COLUMNS = 40  # thumbnails per row of the sheet
QUERIES, NEAREST, READ = 8, 8, 3  # queries, and neighbours of each: with thumbnails, and as text
MOST_CLASSES = 20  # classes with a colour on the map, at most
WIDEST, MOST_PIXELS = 1200, 1 << 25  # of an image: width on the page, and pixels at most


def write(run: Path) -> Path:
    """Writes RUN/report.html from a complete or partial run folder; returns its path.

    Raises UserError if the folder is not a run folder or can't be written.
    """
    from jinja2 import Environment, FileSystemLoader

    summary = gather(run)
    check_replaceable(run / "report.html", "move it away")
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "percent": percent}
    page = escaped(environment.get_template("page.html").render(content(summary)), kept="\n")
    write_text(run / "report.html", page)
    return run / "report.html"


def content(summary: RunSummary) -> Options:
    """The template's context, as plain values: the template escapes them."""
    sample = summary.sample
    return {
        "name": summary.path.resolve().name,
        "summary": summary,
        "subtitle": _subtitle(summary.run),
        "tiles": _tiles(summary),
        "verdict": summary.health[-1][1] if summary.health else None,
        "advice": advise(summary),
        "curves": _curves(summary),
        "health": _health(summary),
        "images": {name.removesuffix(".png"): uri for name, image in summary.images.items() if (uri := _webp(image))},
        "battery": _battery(summary.scores),
        "label_curves": _label_curves(summary.scores),
        "thumbnails": _sheet(sample["thumbnail"]) if sample and "thumbnail" in sample else None,
        "neighbours": _neighbours(sample) if sample else [],
        "bank": int((~sample["held_out"]).sum()) if sample else 0,
        "map": _map(sample) if sample else None,
        "shares": _shares(summary),
        "commands": _commands(summary),
        "settings": _settings(summary.run),
        "chart_width": WIDTH,
    }


def _subtitle(run: Options) -> str:
    return f"{run['method']} · {_encoders(run)} · {run['data']}" if run else ""


def _encoders(run: Options) -> str:
    """The encoder, or each by role."""
    encoder = run["encoder"]
    return ", ".join(f"{role} {name}" for role, name in encoder.items()) if isinstance(encoder, dict) else str(encoder)


def _tiles(summary: RunSummary) -> list[tuple[str, str, str]]:
    """(value, name, note) of the headline numbers."""
    tiles = []
    for probe in LEADING:
        if own := summary.score("encoder", probe):
            metric = own["metric"]
            others = [(NAMES[name], summary.baseline(own, name)) for name in ("random_init", "raw", "popularity", "item_knn", "ease")]
            beside = ", ".join(f"{name} {shown(metric, score['mean'])}" for name, score in others if score)
            where = summary.elsewhere(own)
            title = _probe(probe) + ("" if metric == "accuracy" else f": {metric_of(metric).title}")
            tiles.append((shown(metric, own["mean"]), title, f"on {where}: {beside}" if where else beside))
    last = summary.last
    if last:
        tiles.append((number(last["loss"]), "final loss" if summary.ended else "last loss", f"step {last['step']:,}"))
        if "samples" in last and "seconds" in last:
            rate = last["samples"] / max(last["seconds"], 1e-9)
            tiles.append((_duration(last["seconds"]), "of training", f"{last['samples']:,} samples, {rate:,.0f}/s"))
    return tiles


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


def _probe(name: str) -> str:
    count, _, metric = name.removeprefix("knn").partition("_")  # knn20 is an accuracy, knn20_r2 what it says
    if name.startswith("knn") and count.isdigit():
        return f"kNN, k = {count}" + (f", {metric_of(metric).title}" if metric else "")
    return PROBES.get(name, name)


def _style(features: str) -> str:
    return f"s-{features}" if features in COLOURED else "s-against" if features.startswith("against:") else "s-other"


def _feature_name(features: str) -> str:
    return NAMES.get(features, features.removeprefix("against:"))


def _curve(summary: RunSummary, name: str, style: str = "s-encoder", title: str | None = None) -> Curve:
    return Curve(title or name, style, thin(summary.series(name)))


def _curves(summary: RunSummary) -> list[tuple[str, Any, list[Curve]]]:
    """(title, SVG, the curves that need a legend) of training."""
    names = summary.terms
    knn = sorted({key for row in summary.rows for key in row if key.startswith("knn")}, key=lambda key: (len(key), key))
    recall = sorted({key for row in summary.rows for key in row if "_recall@" in key}, key=lambda key: (len(key), key))
    accuracy = not any(key.endswith("_r2") for key in knn)
    plots = [
        ("Loss", [_curve(summary, name, f"c{i}") for i, name in enumerate(names)], False),
        (
            "kNN during training (on a held-out share of the training part)",
            [_curve(summary, key, f"c{i}", _probe(key)) for i, key in enumerate(knn)],
            accuracy,
        ),
        (
            "Recall during training (validation part)",
            [_curve(summary, key, f"c{i % 5}", metric_of(key).title) for i, key in enumerate(recall)],
            True,
        ),
        ("Learning rate", [_curve(summary, "lr", "c0")], False),
        ("Samples per second", [_curve(summary, "samples_per_second", "c0", "samples per second")], False),
    ]
    return _drawn(plots)


def _health(summary: RunSummary) -> list[tuple[str, Any, list[Curve]]]:
    return _drawn(
        [(title[:1].upper() + title[1:], [_curve(summary, f"health.{name}", "c0", title)], False) for name, title in HEALTH.items()]
    )


def _drawn(plots: list[tuple[str, list[Curve], bool]]) -> list[tuple[str, Any, list[Curve]]]:
    drawn = [(title, chart(title, curves, "step", as_percent=share), curves) for title, curves, share in plots]
    return [(title, svg, curves if len(curves) > 1 else []) for title, svg, curves in drawn if svg]


def _battery(scores: Sequence[Options]) -> list[Options]:
    """Scores grouped by probe, labels, metric and data: the encoder first, then its baselines, with intervals on one scale."""
    groups: dict[tuple[str, str, str, str], list[Options]] = {}
    for row in scores:
        if "group" in row:  # one of those left out; the mean has a row of its own
            continue
        groups.setdefault((row["probe"], str(row["labels"]), row["metric"], row.get("data", "")), []).append(row)
    several = len({data for *_, data in groups}) > 1
    order = list(NAMES)
    result = []
    for (probe, labels, metric, data), rows in groups.items():
        rows = sorted(rows, key=lambda row: (order.index(row["features"]) if row["features"] in order else 9, row["features"]))
        values = [value for row in rows for value in (row["mean"], row.get("low"), row.get("high")) if value is not None]
        drawn = probe != "spectrum" and all(0 <= value <= 1 for value in values)
        budget = "" if labels in ("all", "none", "") else f", {_budget(labels)}"
        title = f"{_probe(probe)}: {metric_of(metric).title}{budget}{f' on {data}' if several else ''}"
        result.append({"title": title, "drawn": drawn, "rows": [_bar(row) for row in rows]})
    return result


def _budget(labels: str) -> str:
    count, slash, unit = labels.partition("/")
    return f"{count} {'label' if count == '1' else 'labels'} per {unit}" if slash else f"{labels} of the labels"


def _bar(row: Options) -> Options:
    text_of = percent if metric_of(row["metric"]).share else number
    low, high = row.get("low"), row.get("high")
    scratch = row["features"] == "random_init" and row["probe"].startswith("finetune")
    name = ("same network from scratch" if scratch else _feature_name(row["features"])) + (f", seed {row['seed']}" if "seed" in row else "")
    bar = {"name": name, "style": _style(row["features"]), "value": text_of(row["mean"]), "interval": "", "at": 100 * row["mean"]}
    if low is None or high is None:
        return bar
    return bar | {"interval": f"{text_of(low)} to {text_of(high)}", "low": 100 * low, "wide": 100 * (high - low)}


def _label_curves(scores: Sequence[Options]) -> list[tuple[str, Any, list[Curve]]]:
    """The main metric against the number of labels: a plot for every probe, and data, that was given fewer labels than all."""
    result = []
    scores = [row for row in scores if is_main(row["metric"]) and "seed" not in row and "group" not in row]
    several = len({row.get("data") for row in scores}) > 1
    kinds = lambda row: (row["probe"], row["metric"], row.get("data"))  # noqa: E731
    for kind in dict.fromkeys(map(kinds, scores)):
        probe, metric, data = kind
        rows = [row for row in scores if kinds(row) == kind]
        labels = sorted({str(row["labels"]) for row in rows}, key=_amount)
        if len(labels) < 2:
            continue
        curves, drawn = [], []
        for features in dict.fromkeys(row["features"] for row in rows):
            own = sorted((row for row in rows if row["features"] == features), key=lambda row: _amount(str(row["labels"])))
            points = [Point(labels.index(str(row["labels"])), row["mean"], row.get("low"), row.get("high")) for row in own]
            curves.append(Curve(_feature_name(features), _style(features), points))
            drawn += [curves[-1]._replace(points=stretch) for stretch in _stretches(points, labels)]
        about = metric_of(metric)
        title = f"{_probe(probe)}: {about.title} by labels{f' on {data}' if several else ''}"
        result.append((title, chart(title, drawn, "labels", as_percent=about.share, x_labels=labels), curves))
    return result


def _stretches(points: Sequence[Point], labels: Sequence[str]) -> list[list[Point]]:
    """Splits points into connected lines: 1% may be fewer labels than 10 per class, so the two scales are not joined."""
    if not any(name.endswith("%") for name in labels):
        return [list(points)]
    a_class = [point for point in points if labels[int(point.x)].endswith("/class")]
    return [stretch for stretch in (a_class, [point for point in points if point not in a_class]) if stretch]


def _amount(labels: str) -> tuple[int, float]:
    """Sorts 1/class, 2/class ... before 1%, 10% ... before all."""
    for place, ending in enumerate(("/class", "%")):
        if labels.endswith(ending):
            text = labels.removesuffix(ending)
            return place, float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    return 2, 0.0


def _sheet(thumbnails: np.ndarray) -> Options:
    """All thumbnails in one sprite image."""
    from PIL import Image

    count, height, width = thumbnails.shape[:3]
    sheet = np.zeros((-(-count // COLUMNS) * height, COLUMNS * width, 3), np.uint8)
    for i, pixels in enumerate(thumbnails):
        row, column = divmod(i, COLUMNS)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = pixels
    return {"uri": _uri(Image.fromarray(sheet)), "columns": COLUMNS, "rows": -(-count // COLUMNS), "width": width, "height": height}


def _uri(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _webp(png: bytes) -> str | None:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(png), formats=["PNG"])
        if image.width * image.height > MOST_PIXELS:
            return None
        image = image.convert("RGB")
    except Exception:  # truncated
        return None
    image.thumbnail((WIDEST, 4 * WIDEST))
    return _uri(image)


def _neighbours(sample: dict[str, np.ndarray]) -> list[Options]:
    """Held-out samples, one of each class first, and their nearest training samples by cosine."""
    features, labels, held_out = sample["features"], sample["label"], sample["held_out"]
    bank = np.flatnonzero(~held_out)
    queries = np.flatnonzero(held_out) if held_out.any() else bank
    first = [int(queries[labels[queries] == label][0]) for label in np.unique(labels[queries])]
    chosen = [*first, *(int(i) for i in queries if i not in set(first))][:QUERIES]
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = []
    for query in chosen:
        near = unit[bank] @ unit[query]
        near[bank == query] = -np.inf
        shown = NEAREST if "thumbnail" in sample else READ
        nearest = [int(bank[i]) for i in np.argsort(-near, kind="stable")[: min(shown, len(bank) - (query in bank))]]
        if nearest:
            found.append({"query": _tile(sample, query), "near": [_tile(sample, i, labels[query]) for i in nearest]})
    return found


def _tile(sample: dict[str, np.ndarray], i: int, wanted: str | None = None) -> Options:
    label = str(sample["label"][i])
    row, column = divmod(i, COLUMNS)
    other = bool(wanted) and label != wanted
    return {"row": row, "column": column, "name": str(sample["name"][i]), "label": label, "other": other}


def _map(sample: dict[str, np.ndarray]) -> Options:
    """The script's data: positions, names and labels of the map's points."""
    labels = [str(label) for label in sample["label"]]
    classes = sorted(set(labels) - {""}, key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    coloured = classes if 1 < len(classes) <= MOST_CLASSES else []
    return {
        "x": [round(float(x), 3) for x in sample["place"][:, 0]],
        "y": [round(float(y), 3) for y in sample["place"][:, 1]],
        "kind": [coloured.index(label) if label in coloured else -1 for label in labels],
        "label": labels,
        "name": [str(name).encode("utf-8", "replace").decode() for name in sample["name"]],
        "classes": coloured,
    }


def _shares(summary: RunSummary) -> list[tuple[str, str, float]]:
    shares = summary.shares()
    total = sum(shares.values())
    return [(name, SHARES[name], seconds / total) for name, seconds in shares.items()] if total else []


def _commands(summary: RunSummary) -> list[str]:
    """Commands that repeat the run: with its settings, and from run.yaml."""
    run = summary.run
    if not run:
        return []
    words = ["untaught", "pretrain", str(run["data"]), "--method", str(run["method"])]
    encoder = run["encoder"]
    words += [f"--encoder={role}={name}" for role, name in encoder.items()] if isinstance(encoder, dict) else ["--encoder", str(encoder)]
    for option in ("modality", "label", "split"):
        if run.get(option):
            words += [f"--{option}", str(run[option])]
    if run.get("columns"):
        words += ["--columns", ",".join(f"{key}={value}" for key, value in run["columns"].items())]
    words += [f"{key}={value}" for key, value in run["knobs"].items()]
    again = ["untaught", "pretrain", "--from", str(summary.path / "run.yaml"), "--out", f"{summary.path}-again"]
    named = "in memory: " not in str(run["data"]) and "module:" not in str(run["encoder"])
    known = named and not from_python(str(run["method"]))
    return [shlex.join(words), shlex.join(again)] if known else []


def _settings(run: Options) -> list[tuple[str, list[tuple[str, str]]]]:
    """run.yaml in groups of (name, value)."""
    if not run:
        return []
    about = [(key, run.get(key)) for key in ("untaught", "torch", "data", "fingerprint", "modality", "label", "split", "method", "encoder")]
    resolved = run["resolved"]
    groups = [("run", about), ("method", resolved.get("method")), ("encoder", resolved.get("encoder")), ("loop", resolved.get("loop"))]
    groups += [
        (f"view {i}: {view.get('name')}", {k: v for k, v in view.items() if k != "name"})
        for i, view in enumerate(resolved.get("views", ()))
    ]
    groups += [("layout", run["layout"]), ("statistics", run.get("statistics"))]
    pairs = [(title, list(group.items() if isinstance(group, dict) else group or ())) for title, group in groups]
    return [(title, [(str(key), str(value)) for key, value in group if value is not None]) for title, group in pairs if group]
