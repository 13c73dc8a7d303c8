"""Samples saved with a run, so that its report and exports do not need the data: views.png and sample.npz."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile, ZipInfo

import numpy as np
import torch
from torch import nn

from untaught.core import Batch, Method, View
from untaught.data.parts import held_out_part
from untaught.evaluation.features import encode
from untaught.evaluation.plane import plane
from untaught.evaluation.pretext import answer, has_prototypes
from untaught.pipeline.dataset import Dataset, batch_of
from untaught.pipeline.view_pipeline import Views, convolves, used_view
from untaught.report.answers import SHOWN as ROWS
from untaught.report.answers import Sheets
from untaught.report.contact_sheet import sheet
from untaught.storage.atomic import write_bytes
from untaught.storage.safe_open import open_file

TRAINED, HELD_OUT = 1200, 300  # samples in the report, at most; more would crowd the map
DECODED_ROWS = 16  # samples also saved decoded, for the parity check of exports
SHOWN = 6  # rows in views.png
ANSWERED = 256  # samples among which those nearest to the prototypes are found
VALUES = 3 * 32 * 32  # of a sample, at most, if answers are drawn value by value: a minute on a CPU
THUMBNAIL = 48  # pixels, at most
CAPTION = 240  # characters of a sample's caption, which replaces its name and thumbnail if the modality has captions
LARGEST, DECODED = 1 << 27, 1 << 26  # bytes of sample.npz when unpacked: what the report shows, and the decoded rows
LONGEST = 4096  # characters of a name or a label
MEMBERS = 64  # arrays in the file, at most


def save_views(folder: Path, views: Views, whole: tuple[str, ...], batch: Batch, dataset: Dataset) -> None:
    """Writes views.png: the views of the first samples of a batch. whole: the views in which the encoders are used."""
    few = {key: value[:SHOWN] for key, value in batch.items()}
    buffer = io.BytesIO()
    presets = dataset.prep.presets()
    used = Views(whole, dataset.prep, [presets[name] for name in whole], seed=0)
    sheet(few, used, views).save(buffer, "png")
    write_bytes(folder / "views.png", buffer.getvalue())


def save_sample(folder: Path, dataset: Dataset, encoder: nn.Module, whole: str, device: torch.device, bf16: bool, seed: int) -> None:
    """Writes sample.npz: names, labels, features, thumbnails and 2-D map positions of some training and held-out samples.

    Arrays: name and label (N,) text, "" for no label; held_out (N,) bool; features (N,D) and place (N,2) float32;
    thumbnail (N,h,w,3) uint8, absent if names are captions; "batch.FIELD": the first rows, decoded.
    """
    view = used_view(dataset.prep, whole)
    view.channels_last = convolves(encoder)
    names, labels, held_out, batches = _chosen(dataset, seed)
    thumbnails: list[np.ndarray] = []
    captions: list[str] = []
    first: dict[str, np.ndarray] = {}

    def used(batch: Batch) -> View:
        made = view(batch, 0)[0]
        if not first:
            each = sum(value[:1].nbytes for value in batch.values())
            few = max(1, min(DECODED_ROWS, DECODED // each))
            first.update({f"batch.{key}": value[:few].cpu().numpy() for key, value in batch.items()})
        if dataset.modality.captions is not None:
            captions.extend(text[:CAPTION] for text in dataset.modality.captions(made, dataset.prep))
        else:
            thumbnails.append(_thumbnails(dataset.modality.render(made, view.options[0], dataset.prep)))
        return made

    features = np.concatenate([vectors for _, vectors in encode(encoder, batches, used, device, bf16)])
    texts_by_name = {key: np.array([text[:LONGEST] for text in texts]) for key, texts in (("name", captions or names), ("label", labels))}
    arrays: dict[str, Any] = {**texts_by_name, "held_out": held_out, "features": features}
    arrays |= {"place": plane(features), **({"thumbnail": np.concatenate(thumbnails)} if thumbnails else {}), **first}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(folder / "sample.npz", buffer.getvalue())


def load_sample(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of sample.npz, or None if it is missing or invalid. Headers are checked before any array is read."""
    try:
        with open_file(folder / "sample.npz", LARGEST + DECODED, folder) as file:
            _check_directory(file)
            with ZipFile(file) as archive:
                heads = {member.filename.removesuffix(".npy"): _head(archive, member) for member in archive.infolist()}
                if len(heads) < len(archive.infolist()) or not _is_sample(heads):
                    return None
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                sample = {key: arrays[key] for key in arrays.files}
        return sample if np.isfinite(sample["features"]).all() and np.isfinite(sample["place"]).all() else None
    except Exception:  # zipfile, zlib and numpy: many types for damaged files
        return None


def save_answers(
    folder: Path, dataset: Dataset, method: Method, views: Views, used: str, device: torch.device, bf16: bool, seed: int
) -> None:
    """Writes overview.png, prototypes.png and samples.png, if the method or its encoder makes such images, of held-out samples,
    or of training samples if none are held out.

    used: the view in which the encoder is used.
    """
    encoder = next(iter(method.exported().values()))
    if not (method.answers or method.generates or has_prototypes(type(method)) or "attention" in encoder.offers):
        return
    sheets, exported, plain = Sheets(), used_view(dataset.prep, used), views.unaugmented(seed)
    count = ANSWERED if has_prototypes(type(method)) else ROWS
    _, _, _, batches = _chosen(dataset, seed, 0 if held_out_part(dataset.parts) else count, count)
    training = method.training
    method.eval()
    try:
        for batch in batches:
            batch = {key: value[:count].to(device) for key, value in batch.items()}
            if method.valuewise and exported(batch, 0)[0].x[0].numel() > VALUES:
                return
            sheets.add(answer(method, encoder, plain, exported, batch, bf16))
        for name, image in sheets.drawn(method, views, seed).items():
            buffer = io.BytesIO()
            image.save(buffer, "png")
            write_bytes(folder / f"{name}.png", buffer.getvalue())
    finally:
        method.train(training)


class _Head(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _head(archive: ZipFile, member: ZipInfo) -> _Head:
    """The header of an array in the archive. Raises ValueError if the member's size does not match it."""
    with archive.open(member) as file:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[np.lib.format.read_magic(file)]
        shape, _, dtype = read(file)
        head = _Head(shape, dtype)
        if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + head.bytes != member.file_size:
            raise ValueError("wrong size")
    return head


def _check_directory(file: BinaryIO) -> None:
    """Raises ValueError if the archive's central directory, which zipfile reads in full, is larger than ours can be."""
    file.seek(-42, os.SEEK_END)
    locator, end = file.read(20), file.read(22)
    if end[:4] != b"PK\5\6" or locator[:4] == b"PK\6\7" or int.from_bytes(end[12:16], "little") > 1024 * MEMBERS:
        raise ValueError("not an archive of a few arrays")
    file.seek(0)


def _is_sample(heads: dict[str, _Head]) -> bool:
    """Whether arrays of these shapes and types form a valid sample.npz."""
    rows = heads["name"].shape[0]
    kinds = {"name": ("U", 1), "label": ("U", 1), "held_out": ("b", 1), "features": ("f", 2), "place": ("f", 2)}
    kinds |= {"thumbnail": ("u", 4)} if "thumbnail" in heads else {}
    decoded = [head for key, head in heads.items() if key.startswith("batch.")]
    return (
        0 < rows <= TRAINED + HELD_OUT
        and len(heads) == len(kinds) + len(decoded)
        and all((heads[key].dtype.kind, len(heads[key].shape), heads[key].shape[0]) == (*kind, rows) for key, kind in kinds.items())
        and max(heads[key].dtype.itemsize for key in ("name", "label")) <= 4 * LONGEST
        and heads["place"].shape[1] == 2
        and ("thumbnail" not in heads or _is_thumbnail(heads["thumbnail"]))
        and sum(heads[key].bytes for key in kinds) <= LARGEST
        and sum(head.bytes for head in decoded) <= DECODED
        and all(head.dtype.kind in "biuf" and head.shape and head.shape[0] <= DECODED_ROWS for head in decoded)
    )


def _is_thumbnail(head: _Head) -> bool:
    return 0 < max(head.shape[1:3]) <= THUMBNAIL and head.dtype == np.uint8 and head.shape[3] == 3


def decoded_batch(sample: dict[str, np.ndarray]) -> Batch:
    return {key.removeprefix("batch."): torch.from_numpy(value) for key, value in sample.items() if key.startswith("batch.")}


def _chosen(
    dataset: Dataset, seed: int, most_trained: int = TRAINED, most_held_out: int = HELD_OUT
) -> tuple[list[str], list[str], np.ndarray, Iterator[Batch]]:
    """-> names, labels, held-out flags, and batches in the same order."""
    store, random = dataset.store, np.random.default_rng(seed)
    if store is None:
        batch, names = batch_of(dataset.peeked, dataset.prep)
        return names, [""] * len(names), np.zeros(len(names), bool), iter([batch])
    trained = random.permutation(dataset.parts["train"])[:most_trained]
    part = held_out_part(dataset.parts)
    held_out = random.permutation(dataset.parts[part])[:most_held_out] if part else trained[:0]
    rows = np.concatenate([trained, held_out])
    labels = [_label_text(label, store.classes) for label in store.labels[rows]] if store.labels is not None else [""] * len(rows)
    return store.names(rows), labels, np.arange(len(rows)) >= len(trained), dataset.in_order(rows, 256).batches(0)


def _label_text(label: Any, classes: tuple[str, ...]) -> str:
    if isinstance(label, np.ndarray):  # several classes
        return ", ".join(name for name, flag in zip(classes, label, strict=True) if flag > 0)
    if classes:
        return classes[label] if label >= 0 else ""
    return "" if np.isnan(label) else f"{label:g}"


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """(B,H,W,3) uint8 -> the same, resized to at most THUMBNAIL pixels a side."""
    height, width = images.shape[1:3]
    if max(height, width) <= THUMBNAIL:
        return images
    scale = THUMBNAIL / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
