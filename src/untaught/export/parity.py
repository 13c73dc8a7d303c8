"""The parity check: an exported file must return the encoder's vectors on real samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from untaught.core import Encoder, Options, Preprocessor, UserError, View
from untaught.data.sources import open_source, peek
from untaught.pipeline.dataset import adapted, batch_of
from untaught.pipeline.view_pipeline import used_view
from untaught.report.samples import DECODED_ROWS, decoded_batch, load_sample
from untaught.storage.run_dir import data_of, name_of, read_run


def real_input(
    run: Path, config: Options, prep: Preprocessor, data: Any = None, columns: dict[str, str] | None = None
) -> tuple[Tensor, ...]:
    """Some real samples as the encoder takes them, x (B, ...) and, of ragged ones, valid (B,L): of `data`, else what the run kept, else
    of the run's own data."""
    modality, view = prep.modality, used_view(prep, config["view"])
    sample, role = (load_sample(run), "") if data is None else (None, "")
    if sample is None and data is None and run.parent.name == "encoder":  # of one of several encoders: its part of the pairs
        sample, role = load_sample(run.parent.parent), f"{run.name}."
    if sample is not None and (batch := decoded_batch(sample)):
        batch = {key.removeprefix(role): value for key, value in batch.items() if key.startswith(role) or key == "index"}
        return _tensors(view(batch, 0)[0])
    encoding = prep.settings.get("encoding")
    if data is None:
        if not (run / "run.yaml").exists():
            raise UserError(f"{run} has no samples or data to check the export on; give some with --data")
        before = read_run(run / "run.yaml")
        how = {key: before[key] for key in ("columns", "label", "split")}
        source = open_source(data_of(before, run), modality, **how, encoding=encoding)
        if source.fingerprint != before.get("fingerprint"):
            raise UserError(f"{name_of(before)} has changed since {run} was trained (files, sizes or times); give data with --data")
    else:
        source = open_source(data, modality, columns=columns, encoding=encoding)
    records = peek(source, DECODED_ROWS)
    batch, _ = batch_of(records, adapted(records, prep))
    return _tensors(view({key: value[:DECODED_ROWS] for key, value in batch.items()}, 0)[0])


def _tensors(view: View) -> tuple[Tensor, ...]:
    return tuple(part.contiguous() for part in (view.x, view.valid) if part is not None)


class OfTensors(nn.Module):
    """An encoder as a function of tensors, as other programs call it: x, valid -> (B,D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        return self.encoder(View(x, valid))


@torch.no_grad()
def check_parity(what: str, encoder: Encoder, given: Tensor, x: tuple[Tensor, ...], limit: float) -> float:
    """The largest difference of `given` (B,D) from the encoder's vectors of x (see `real_input`). Raises UserError above the limit.

    The difference is relative to the vectors' largest absolute value if that is above 1.
    """
    own = OfTensors(encoder)(*x)
    if given.shape != own.shape:
        raise UserError(f"{what} returns shape {tuple(given.shape)}, the encoder {tuple(own.shape)}; try another format with --to")
    difference = float((given - own).abs().max() / own.abs().max().clamp(min=1.0))
    if not difference <= limit:
        raise UserError(f"{what} differs from the encoder by {difference:.1e} (limit {limit:.0e}); try another format with --to")
    return difference
