"""Does a file that loads without this library give the encoder's own vectors, on real images?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from untaught.config.registry import modality_named
from untaught.core import Encoder, Options, UserError, View
from untaught.data.sources import open_source, peek
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.view_pipeline import used_view
from untaught.report.samples import KEPT, kept_batch, load_sample
from untaught.storage.run_dir import data_of, name_of, read_run


def real_input(run: Path, config: Options, data: Any = None, columns: dict[str, str] | None = None) -> tuple[Tensor, ...]:
    """Some real samples as the encoder takes them, x (B, ...) and, of ragged ones, valid (B,L): of `data`, else what the run kept, else
    of the run's own data."""
    modality = modality_named(config["modality"])
    view = used_view(modality, config["layout"], config["view"], config["statistics"])
    sample = load_sample(run) if data is None else None
    if sample is not None and (batch := kept_batch(sample)):
        return _taken(view(batch, 0)[0])
    encoding = config["layout"].get("encoding")
    if data is None:
        if not (run / "run.yaml").exists():
            raise UserError(f"{run} names no data to check the export on; give some with --data")
        before = read_run(run / "run.yaml")
        how = {key: before[key] for key in ("columns", "label", "split")}
        source = open_source(data_of(before, run), modality, **how, encoding=encoding)
        if source.fingerprint != before.get("fingerprint"):
            raise UserError(f"{name_of(before)} is not what {run} was trained on (other files, sizes or times); give some data with --data")
    else:
        source = open_source(data, modality, columns=columns, encoding=encoding)
    records = peek(source, KEPT)
    batch, _ = batch_of(records, modality, modality.adapt(records, config["layout"]))
    return _taken(view({key: value[:KEPT] for key, value in batch.items()}, 0)[0])


def _taken(view: View) -> tuple[Tensor, ...]:
    return tuple(part.contiguous() for part in (view.x, view.valid) if part is not None)


class OfTensors(nn.Module):
    """An encoder as a function of tensors, which is what other programs have: x, valid -> (B,D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.encoder(View(x, valid))


@torch.no_grad()
def check_parity(what: str, encoder: Encoder, given: Tensor, x: tuple[Tensor, ...], limit: float) -> float:
    """The largest difference of `given` (B,D) from the encoder's vectors of x, as `real_input` has it; a UserError beyond the limit.

    Differences are relative to the largest number among the vectors where that is above 1.
    """
    own = OfTensors(encoder)(*x)
    if given.shape != own.shape:
        raise UserError(f"{what} gives {tuple(given.shape)} where the encoder gives {tuple(own.shape)}; try another --to")
    apart = float((given - own).abs().max() / own.abs().max().clamp(min=1.0))
    if not apart <= limit:
        raise UserError(f"{what} differs from the encoder by {apart:.1e}, {limit:.0e} is allowed; try another --to")
    return apart
