"""The probe for dense targets (tags, maps): a linear head trained on the frozen encoder, with random init as the baseline."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from untaught.commands.finetune import finetune
from untaught.config.overrides import knobs_of
from untaught.config.registry import resolve
from untaught.console import say, warn
from untaught.core import Options, UserError
from untaught.downstream import TASKS
from untaught.evaluation.evaluator import merge_rows
from untaught.evaluation.models import open_model
from untaught.pipeline.pretrained import Pretrained

PROBE = "frozen"  # in evaluation.json
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
) -> list[Options]:
    """Rows of evaluation.json: the task's metrics for the encoder, its random init, and others by name, all frozen.

    The head and its number of steps are chosen on validation rows of the training part. The rows are written to evaluation.json of the run,
    or to `out`, a folder or a .json file. Raises UserError if the data have no such targets or no held-out part.
    """
    model, path = target
    knobs: Options = {"train": "frozen", "scratch": False}
    if "head" in knobs_of(resolve(TASKS[task])):
        knobs["head"] = "linear"
    networks: list[tuple[str, Pretrained, Path]] = [("encoder", *target)]
    random_init = open_model(target).random_init(None)
    if random_init is None:
        warn("skipping the random-init baseline: some modules lack reset_parameters()")
    else:
        networks.append(("random_init", model._replace(network=random_init), path))
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
    run = path.parent if path.name == "encoder" else path
    folder = out or (run if (run / "run.yaml").exists() else None)
    if folder is not None:
        written = folder if folder.suffix == ".json" else folder / "evaluation.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        merge_rows(written, rows)
        say(f"wrote     {written}")
    return rows
