"""Records of series as arrays: what is read, cut into pieces, and checked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from untaught.core import Options, Preprocessor, Record, UserError
from untaught.modalities.series.future import CLOCKED
from untaught.ranges import Within

LENGTHS = Within(2, 1 << 20)


def plan(records: list[Record], overrides: Options) -> Options:
    """Channels, maximum length, and whether values are missing (unless `missing` is given), from a sample of the records."""
    apart, until = bool(overrides.get("apart")), float(overrides.get("until") or 0)
    standardise = overrides.get("standardise", "sample" if apart else "channel")
    if standardise not in ("channel", "sample", "none"):
        raise UserError(f"standardise={standardise}: must be channel, sample or none")
    if apart and standardise == "channel":
        raise UserError("standardise=channel: with apart=True all channels share one network; choose sample (the default there) or none")
    found, faults = [], []
    for record in records:
        try:
            found.append(_values(record["series"]))
        except ValueError as error:
            faults.append(str(error))
    if not found:
        raise UserError(f"none of the first {len(records)} series can be read: {faults[0] if faults else 'no records'}")
    window, stride = int(overrides.get("window") or 0), int(overrides.get("stride") or 0)
    if stride and not window:
        raise UserError(f"stride={stride}: needs window=N, the time steps of a piece")
    channels = {values.shape[1] for values in found}
    if len(channels) > 1:
        raise UserError(f"series have {' and '.join(map(str, sorted(channels)))} channels; all must have the same number")
    low, high = (reduce(np.stack([reduce(values) for values in found])) for reduce in (np.fmin.reduce, np.fmax.reduce))
    idle = [int(channel) + 1 for channel in np.flatnonzero(~(high > low))]  # NaN where no value is known
    if max(map(len, found)) < 2:
        raise UserError("every series has 1 time step; at least 2 are required: arrays (n, time), or one list of numbers per record")
    count = channels.pop()
    return {
        "channels": 1 if apart else count,
        "length": max(min(max(steps_until(len(values), until) for values in found), window or LENGTHS.high), 1),
        "missing": any(bool(np.isnan(values).any()) for values in found) if (given := overrides.get("missing")) is None else bool(given),
        "standardise": standardise,
        "ragged": ["values"],
        **({"window": window, "stride": stride or window} if window else {}),
        **({"apart": True} if apart else {}),
        **({"until": until} if until else {}),
        **({"idle": idle} if idle else {}),
        **({"channel_names": names} if (names := channel_names(records[0])) and (apart or len(names) == count) else {}),
    }


def channel_names(record: Record) -> list[str]:
    """The columns that the channels are read from; [] where they have no names."""
    return names.split("\n") if isinstance(names := record.get("channels"), str) and names else []


def adapt(records: list[Record], settings: Options) -> Options:
    """The settings for new data: all steps of a series are read, and channels have the names they have there, unless they are found by
    those of training (see `decode`)."""
    found = {key: value for key, value in settings.items() if key != "until"}
    names, own = settings.get("channel_names") or [], channel_names(records[0]) if records else []
    return found | ({"channel_names": own} if own and (settings.get("apart") or not {*own} & {*names}) else {})


def steps_until(length: int, until: float) -> int:
    """How many of a series' first time steps are used: all if `until` is 0, a share of them up to 1, else that many."""
    return length if not until else math.floor(until * length + 1e-9) if until <= 1 else min(length, int(until))


def remarks(views: tuple[str, ...], settings: Options) -> list[str]:
    """Names the channels that tell nothing."""
    idle = settings.get("idle") or []
    few = ", ".join(map(str, idle[:8])) + (f" and {len(idle) - 8} more" if len(idle) > 8 else "")
    return (
        [f"channel{'s' * (len(idle) > 1)} {few}: constant or missing in all series sampled; leave out what tells nothing"] if idle else []
    )


def cut(settings: Options) -> Callable[[Record], list[Record]] | None:
    """Record -> its pieces, all in one group (the record's, else its name): the steps `until` a certain one, in windows of `window` steps,
    one every `stride`, the last one at their end; with `apart` each channel by itself. A series that can't be read is not cut. None if
    there is nothing to cut."""
    window, stride, apart, until = (settings.get(key) for key in ("window", "stride", "apart", "until"))
    if not (window and stride) and not apart and not until:
        return None

    def pieces(record: Record) -> list[Record]:
        try:
            values = _values(record["series"])
        except ValueError:  # reported when it is decoded
            return [record]
        length, name = steps_until(len(values), until or 0), str(record.get("name"))
        spans = [(0, length)]
        if window and stride and length > window:
            spans = [(start, start + window) for start in (*range(0, length - window, stride), length - window)]
        group = record.get("group", name)
        if len(spans) == 1 and length == len(values) and (not apart or values.shape[1] == 1):
            return [record]
        found = []
        for start, end in spans:
            for channel in range(values.shape[1]) if apart else (slice(None),):
                own = name if len(spans) == 1 else f"{name} {start}-{end}"
                own = f"{own} channel {channel}" if apart else own
                found.append(record | {"series": values[start:end, channel].T, "name": own, "group": group})
        return found

    return pieces


def decode(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """-> "values" (T,C) float32, NaN where missing. Channels are found by the names they had in training, or by their order if they share
    none.

    Raises ValueError for a channel that is not there, and for missing values if the training data had none: an encoder without indicator
    channels would read them as the mean.
    """
    values, settings = _values(record["series"]), prep.settings
    names, own = settings.get("channel_names") or [], channel_names(record)
    if len(own) == values.shape[1] and own != names and not settings.get("apart") and {*own} & {*names}:
        if lacking := [name for name in names if name not in own]:
            raise ValueError(f"has no channel {lacking[0]}, but {', '.join(own[:8])}; the encoder reads {', '.join(names[:8])}")
        values = values[:, [own.index(name) for name in names]]
    if values.shape[1] != settings["channels"]:
        raise ValueError(f"{values.shape[1]} channels, not {settings['channels']}")
    if not settings.get("missing", True) and np.isnan(values).any():
        step, channel = np.argwhere(np.isnan(values))[0].tolist()
        where = f"time step {step} of channel {channel}"
        raise ValueError(f"{where} is missing, but the training data had no missing values; impute it, or train with missing=True")
    return {"values": values}


def all_channels(record: Record, prep: Preprocessor) -> dict[str, np.ndarray]:
    """As `decode`, of any number of channels where each is a series of its own; with CLOCKED (3,), the times of its table."""
    given = {**prep.settings, "channels": _values(record["series"]).shape[1]} if prep.settings.get("apart") else prep.settings
    clock = record.get("clock")  # of a table with times; the end of a series that ends in missing values is not known
    known = (
        isinstance(clock, np.ndarray) and clock.shape == (3,) and np.asarray(record["series"]).shape[-1] == len(_values(record["series"]))
    )
    return {**decode(record, replace(prep, settings=given)), CLOCKED: np.array(clock if known else [np.nan] * 3, np.float64)}


def _values(given: Any) -> np.ndarray:
    """(C,T) or (T,) numbers, or text "1,2;3,4" with channels separated by semicolons -> (T,C) float32, without trailing NaN padding.

    Raises ValueError for anything else.
    """
    if isinstance(given, str):
        rows = [[_number(cell) for cell in part.split(",")] for part in given.split(";")]
        if len({len(row) for row in rows}) > 1:
            raise ValueError("its channels differ in length")
        given = rows
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":  # cells of csv
        given = [_number(cell) for cell in given.reshape(-1).tolist()]
    values = np.asarray(given, np.float64)
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ValueError(f"has shape {values.shape}; (time,) or (channel, time) is allowed")
    if np.isinf(values).any() or np.abs(values[np.isfinite(values)]).max(initial=0) > 1e30:
        raise ValueError("has infinite values or values beyond 1e30")
    known = np.flatnonzero(np.isfinite(values).any(0))
    if not len(known):
        raise ValueError("has no values")
    return np.ascontiguousarray(values[:, : known[-1] + 1].T, np.float32)


def _number(cell: str) -> float:
    try:
        return math.nan if cell.strip() in ("", "?") else float(cell)
    except ValueError:
        raise ValueError(f"{cell.strip()[:20]!r} is not a number; allowed: 1,2,?,4 with channels separated by semicolons") from None
