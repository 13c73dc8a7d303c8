"""The probe for dense targets (tags, maps): a linear head trained on the frozen encoder, with random init as the baseline."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from untaught.commands.finetune import finetune, open_tuner
from untaught.config.overrides import knobs_of
from untaught.config.registry import resolve
from untaught.console import say, warn
from untaught.core import Options, UserError
from untaught.downstream import TASKS
from untaught.downstream.comparison import score_rows
from untaught.downstream.segment import IGNORED, Segment, numbering
from untaught.downstream.tuner import DENSE, Tuner
from untaught.encoders.colours import Colours
from untaught.evaluation.evaluator import merge_rows
from untaught.evaluation.forecasts import baselines_win
from untaught.evaluation.interval import measure, row
from untaught.evaluation.models import open_model
from untaught.evaluation.segmentation import kmeans_segmentation
from untaught.pipeline.pretrained import Pretrained

PROBE = "frozen"  # in evaluation.json
LINEAR_LR = 1e-2  # of a linear head on maps; of 0.001, 0.01 and 0.03 the best on held-out photos of Penn-Fudan's training part
Loaded = tuple[Pretrained, Path]  # an encoder, and its run or encoder folder


def frozen_probe(
    target: Loaded,
    data: Any,
    task: str,
    *,
    against: Sequence[tuple[str, Loaded]] = (),
    out: Path | None = None,
    columns: dict[str, str] | None = None,
    label: str | None = None,
    split: str | None = None,
    knobs: Options | None = None,
) -> list[Options]:
    """Rows of evaluation.json: the task's metrics for the encoder, its random init, and others by name, all frozen.

    The head and its number of steps are chosen on validation rows of the training part. For masks, the colours of the pixels ("raw") are a
    baseline too, and k-means on the last map, without labels, is measured beside the head. The rows are written to evaluation.json of the
    run, or to `out`, a folder or a .json file. knobs: of the task, such as binary=yes. Raises UserError if the data have no such targets or
    no held-out part.
    """
    model, path = target
    knobs, cls = {**(knobs or {}), "train": "frozen", "scratch": False}, resolve(TASKS[task])
    if "head" in knobs_of(cls):
        knobs = {"lr": LINEAR_LR} | knobs | {"head": "linear"}
    networks: list[tuple[str, Pretrained, Path]] = [("encoder", *target)]
    random_init = open_model(target).random_init(None)
    if random_init is None:
        warn("skipping the random-init baseline: some modules lack reset_parameters()")
    else:
        networks.append(("random_init", model._replace(network=random_init), path))
    if dense := cls is Segment:
        networks.append(("raw", model._replace(network=Colours(model.prep.settings["channels"])), path))
    networks += [(f"against:{name}", *loaded) for name, loaded in against]

    rows: list[Options] = []
    how: dict[str, Any] = {"columns": columns, "label": label, "split": split, "knobs": knobs, "record": False}
    with tempfile.TemporaryDirectory() as scratch:
        for number, (features, network, place) in enumerate(networks):
            say(f"probing   {features}")
            _, probed = finetune(network, place, data, task=task, out=Path(scratch) / str(number), **how)
            rows += [row | {"features": features, "probe": PROBE} for row in probed.config["scores"]]
            if not rows:
                raise UserError(
                    f"no held-out samples to evaluate --task {task} on; give data with a test part, or data the encoder was not trained on"
                )
            if dense:
                facts = {name: probed.config[name] for name in ("values", "binary", "ignore")}
                tuner = open_tuner(network, place, data, task=task, columns=columns, label=label, split=split, knobs=knobs)
                rows += [row | {"features": features} for row in without_labels(tuner, facts)]
    tuner = open_tuner(model, path, data, task=task, columns=columns, label=label, split=split, knobs=knobs) if cls.compared else None
    if tuner is not None and tuner.test is not None:
        measured = {name: cls.metrics([outcome]) for name, outcome in cls.baselines(tuner).items()}
        setting = next(iter(rows))["metric"].partition("@")
        rows += [one | {"probe": PROBE} for one in score_rows(measured, tuner.trial, "frozen", tuner.dataset.name, "".join(setting[1:]))]
        if won := baselines_win(rows):
            warn(won)
    run = path.parent if path.name == "encoder" else path
    folder = out or (run if (run / "run.yaml").exists() else None)
    if folder is not None:
        written = folder if folder.suffix == ".json" else folder / "evaluation.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        merge_rows(written, rows)
        say(f"wrote     {written}")
    return rows


LARGEST = 64  # side of the grid on which places are clustered, at most


@torch.no_grad()
def without_labels(tuner: Tuner, facts: Options) -> list[Options]:
    """Rows of k-means segmentation of the test part. facts: the mask values that are classes, and the task's knobs."""
    assert tuner.test is not None
    numbers, classes = numbering(facts["values"], facts["binary"], facts["ignore"]), len(facts["values"])
    encoder, found, truth = tuner.encoder.eval().to(tuner.device), [], []
    for batch in tuner.dataset.in_order(tuner.test, DENSE).batches(0):
        batch = {key: value.to(tuner.device) for key, value in batch.items()}
        view = tuner.targets.follow(batch, tuner.used(batch, 0)[0])
        last = encoder.features(view, want=("maps",)).maps[-1].float()  # type: ignore[index]
        if max(last.shape[2:]) > LARGEST:
            last = F.adaptive_avg_pool2d(last, (min(LARGEST, last.shape[2]), min(LARGEST, last.shape[3])))
        assert view.target is not None
        found.append(last.cpu())
        truth.append(numbers[view.target.long().cpu().numpy()])
    maps, grid = torch.cat(found), found[0].shape[2:]
    vectors = maps.flatten(2).transpose(1, 2).numpy()
    outcomes = kmeans_segmentation(vectors, (grid[0], grid[1]), np.concatenate(truth), classes, IGNORED)
    measured = measure(Segment.scores, outcomes, (0.0, 1.0))
    data = {"data": tuner.dataset.name}
    return [row("kmeans", "none", name, one.mean, *one.interval, len(one.draws)) | data for name, one in measured.items()]
