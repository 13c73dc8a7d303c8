"""Run folders written by hand, with what data can put into them: markup in every name."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

NASTY = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(2)>"

RUN: dict[str, Any] = {
    "untaught": "0.1.0",
    "torch": "2.6",
    "data": f"photos {NASTY}/",
    "fingerprint": "abc",
    "modality": "image",
    "columns": {"image": QUOTED},
    "label": QUOTED,
    "split": None,
    "method": "simclr",
    "encoder": "conv_small",
    "knobs": {"minutes": "0.5"},
    "resolved": {
        "method": {"temperature": 0.1},
        "encoder": {},
        "loop": {"minutes": 0.5, "lr": 1e-3},
        "views": [{"name": "global", "size": 16}, {"name": "global", "size": 16}],
        "export_view": "whole",
    },
    "layout": {"size": 16},
    "statistics": {"mean": [0.3]},
}


def metrics(steps: int = 40) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        row: dict[str, Any] = {"step": step, "epoch": step // 4, "seconds": 0.5 * step, "samples": 64 * step, "samples_per_second": 128.0}
        row |= {"loss": 5 - 0.05 * step, "nt_xent": 4 - 0.05 * step, QUOTED: 1.0, "lr": 1e-3 / step}
        row |= {"share_data": 0.25, "share_views": 0.25, "share_compute": 0.5}
        if step % 10 == 0:
            bad = step == steps
            about = {"because": f"rank {NASTY}", "try": f"a lower lr {NASTY}"} if bad else {"because": "", "try": ""}
            numbers = {"effective_rank": 40.0 / step, "std": 0.1, "alignment": 0.3, "uniformity": -2.0, "teacher_lag": None}
            row["health"] = {"verdict": "collapsing" if bad else "healthy", **about, **numbers, "gradient_norm": 1.5}
        rows.append(row)
        if step % 10 == 0:
            rows.append({"step": step, "epoch": step // 4, "knn20": 0.5 + step / 200, "knn200": 0.4 + step / 200})
    return rows


def scores() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for place, features in enumerate(("raw", "random_init", "encoder", f"against:timm/{NASTY}")):
        for probe, labels, metric in (
            ("knn20", "all", "accuracy"),
            ("linear", "all", "accuracy"),
            ("linear", "10%", "accuracy"),
            ("linear", "2/class", "accuracy"),
            ("linear", "10/class", "accuracy"),
            ("spectrum", "all", "rankme"),
        ):
            mean = 12.5 + place if metric == "rankme" else 0.5 + 0.1 * place + 0.05 * (labels == "all")
            around = {"low": None, "high": None} if metric == "rankme" else {"low": mean - 0.02, "high": mean + 0.02}
            rows.append({"features": features, "probe": probe, "labels": labels, "metric": metric, "mean": mean, **around, "draws": 10})
    return rows


def sample(count: int = 60) -> dict[str, Any]:
    random = np.random.default_rng(0)
    kind = np.arange(count) % 3
    return {
        "name": np.array([f"{i}{NASTY}" for i in range(count)]),
        "label": np.array([("cat", QUOTED, NASTY)[k] for k in kind]),
        "held_out": np.arange(count) >= count * 2 // 3,
        "features": (random.normal(size=(count, 8)) + 4 * np.eye(8)[kind]).astype(np.float32),
        "place": random.random((count, 2)).astype(np.float32),
        "thumbnail": random.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8),
    }


def whole_run(folder: Path) -> Path:
    """Everything that a finished run may hold."""
    (folder / "encoder").mkdir(parents=True)
    (folder / "encoder" / "model.safetensors").write_bytes(b"")
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()))
    (folder / "evaluation.json").write_text(json.dumps({"schema": 1, "rows": scores()}))
    np.savez(folder / "sample.npz", **sample())
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "grey").save(buffer, "png")
    (folder / "views.png").write_bytes(buffer.getvalue())
    return folder
