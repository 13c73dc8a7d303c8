"""Arrays (N, ...) from numpy or torch, `.npy`, `.npz` by key, and built-in data sets."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from untaught.core import Modality, Record, UserError
from untaught.data import frames, tables
from untaught.data.identity import content_hash, file_facts, fingerprint
from untaught.data.label_sets import is_matrix
from untaught.data.labels import Naming, name_labels
from untaught.data.parts import GROUP, PARTS, Choice, Part, Source, sort_parts
from untaught.data.tones import PITCHES, tones
from untaught.data.visits import visits
from untaught.data.waves import SHAPES, waves

DATA = ("x", "data", "images", "arr_0")
LABELS = ("y", "label", "labels", "target", "targets", "arr_1")
BUILTINS = {  # name -> field
    "digits": "image",
    "photos": "image",
    "topics": "text",
    "tones": "audio",
    "cancer": "table",
    "wine": "table",
    "visits": "item",
    "waves": "series",
}


def open_file(path: Path, modality: Modality, choice: Choice) -> Source:
    """A `.npy` (memory-mapped) or an `.npz` (by key). Raises UserError."""
    try:
        if path.suffix.lower() == ".npy":
            loaded: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as archive:
                loaded = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as numpy arrays ({error}); plain numbers without pickled objects are allowed") from error
    return open_arrays(loaded, modality, choice, where=path.name, facts=[file_facts(path)])


def open_arrays(
    data: Any,
    modality: Modality,
    choice: Choice,
    where: str = "the array",
    facts: list[object] | None = None,
    classes: tuple[str, ...] | None = None,
) -> Source:
    """An array, a pair (array, labels), or a dictionary of arrays by key ("train_images", "y_val", "classes" ...)."""
    field = next(iter(modality.fields))
    if modality.grouped and isinstance(data, dict):
        table = frames.of_columns({str(key): to_numpy(value, "uifbSUOM") for key, value in data.items()}, where)
        return tables.open_tables({"all": [table]}, modality, facts, where, choice)
    if not isinstance(data, dict):
        choice.refuse(where)
    if isinstance(data, dict):
        parts, classes = _by_key({str(key): value for key, value in data.items()}, modality, choice, where)
    elif isinstance(data, (tuple, list)):
        if len(data) != 2:
            raise UserError(f"got {len(data)} arrays; one array or a pair (array, labels) is allowed; for more, use a dictionary")
        parts = {"all": ({field: to_numpy(data[0])}, _to_labels(data[1]))}
    else:
        parts = {"all": ({field: to_numpy(data)}, None)}

    counts: Counter[Any] = Counter()
    known = [labels for _, labels in parts.values() if labels is not None]
    several = [labels for labels in known if labels.ndim == 2]
    if several:
        classes = _classes_of_sets(known, classes, where)
    for labels in known:
        if not several:
            counts.update(labels.tolist() if labels.dtype.hasobject else _counted(labels))
    naming = name_labels(counts) if counts and classes is None else None
    labelled = bool(several) or (bool(counts) and (classes is not None or naming is not None))
    classes = naming.classes if naming else classes
    note = " without labels"
    if labelled:
        note = f" with {len(classes)} classes" if classes else " with a measured label"
        note += ", several per sample (an indicator each)" if several else ""
        note += f" ({naming.note})" if naming and naming.note else ""
    parts = {part: (values, _numbers(labels, naming) if naming else labels) for part, (values, labels) in parts.items()}
    if not labelled:
        parts = {part: (values, None) for part, (values, _) in parts.items()}
    tensor = any(map(is_tensor, data.values() if isinstance(data, dict) else data[:1] if isinstance(data, tuple | list) else [data]))
    for values, _ in parts.values():
        for array in values.values() if len(values) == 1 else ():
            if doubt := modality.doubt(array.shape, tensor):
                raise UserError(doubt)
    built = {part: _part(values, labels, part if len(parts) > 1 else where, tensor) for part, (values, labels) in sort_parts(parts).items()}
    if not any(part.rows for part in built.values()):
        raise UserError(f"{where} has no rows; give at least one")
    shapes = ", ".join(f"{part} {next(iter(values.values())).shape}" for part, (values, _) in sort_parts(parts).items())
    rows = sum(part.rows or 0 for part in built.values())
    if facts is None:
        contents = [array for part, (values, labels) in parts.items() for array in (part, *values.items(), labels)]
        facts = [content_hash(contents)]
    what = f"{rows:,} {modality.noun} from {where}: {shapes.replace('all ', '')}{note}"
    return Source(what, built, classes if labelled else None, fingerprint([*facts, choice, classes]))


def _to_labels(data: Any) -> np.ndarray:
    """Labels of any kind -> (rows,) of numbers, text or objects."""
    labels = to_numpy(data, "uifbSUOMT")
    if is_matrix(labels):
        return labels.astype(np.int8)
    if labels.size != len(labels):
        raise UserError(
            f"labels have shape {labels.shape}; one per row (rows,) is allowed, e.g. argmax(1) of one-hot rows; or 0 and 1 per class "
            "(rows, classes) where some rows have several classes or none"
        )
    labels = labels.reshape(-1)
    if labels.dtype.hasobject and (odd := next((type(label).__name__ for label in labels if not isinstance(label, Hashable)), None)):
        raise UserError(f"labels have type {odd}; one number or word per row is allowed")
    if labels.dtype.kind == "S":
        return np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind in "MT":
        return labels.astype("M8[us]" if labels.dtype.kind == "M" else object).astype(object)
    return labels


def _classes_of_sets(labels: list[np.ndarray], classes: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """The class names of label matrices (rows, classes): given, or numbers."""
    if len(shapes := {own.shape[1:] for own in labels}) > 1:
        raise UserError(f"the labels of {where} have shapes {', '.join(str(own.shape) for own in labels)}; give as many classes in each")
    ((size, *_),) = shapes
    return classes if classes and len(classes) == size else tuple(map(str, range(size)))


def _counted(labels: np.ndarray) -> dict[Any, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _numbers(labels: np.ndarray | None, naming: Naming) -> np.ndarray | None:
    """Class indices, -1 if missing; or numeric labels, NaN if missing."""
    if labels is None:
        return None
    missing, kind = (np.nan, np.float64) if naming.classes is None else (-1, np.int64)
    values, places = (labels, np.arange(len(labels))) if labels.dtype.hasobject else np.unique(labels, return_inverse=True)
    numbers = [naming(value) for value in values.tolist()]
    return np.array([missing if number is None else number for number in numbers], kind)[places.reshape(-1)]


def to_numpy(data: Any, kinds: str = "uifbSU") -> np.ndarray:
    """Rows (N, ...) with a dtype of these kinds. Raises UserError for anything else."""
    if is_tensor(data):
        data = data.detach().cpu()
        data = (data.float() if str(data.dtype) == "torch.bfloat16" else data).numpy()  # numpy has no bfloat16
    try:
        array = np.asarray(data)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"rows have different shapes ({error}); stack them to (rows, ...)") from error
    if array.dtype.kind not in kinds or array.ndim == 0:
        raise UserError(f"got an array of {array.dtype} {array.shape}; rows of plain numbers (rows, ...) are allowed")
    return array


def is_array(data: Any) -> bool:
    return isinstance(data, np.ndarray) or is_tensor(data)


def is_tensor(data: Any) -> bool:
    """Whether data is a torch tensor, without importing torch."""
    return hasattr(data, "detach") and hasattr(data, "numpy")


def is_pair(data: Any) -> bool:
    """Whether data is an array with its labels. A list may also be a list of arrays, one per record."""
    if not isinstance(data, tuple | list) or not data or not is_array(data[0]):
        return False
    if isinstance(data, tuple):
        return True
    return len(data) == 2 and (not is_array(data[1]) or math.prod(data[1].shape) == len(data[0]))


def open_builtin(name: str, modality: Modality) -> Source:
    """Small data sets that are available offline: real ones of scikit-learn and Python, and computed tones, visits and waves."""
    if name not in BUILTINS:
        raise UserError(f"unknown data set builtin:{name}; allowed: {', '.join(f'builtin:{name}' for name in BUILTINS)}")
    if BUILTINS[name] not in modality.fields:
        raise UserError(f"builtin:{name} has no {modality.noun}; give --modality {BUILTINS[name]}, or other data")
    if name == "topics":
        return open_arrays(_topics(), modality, Choice(), where="builtin:topics, the paragraphs of Python's own help", facts=["topics"])
    if name == "tones":
        sounds, pitches, rate = tones()
        found = {"audio": sounds, "rate": np.full(len(sounds), rate), "label": pitches, "classes": np.array(PITCHES)}
        return open_arrays(found, modality, Choice(), where="builtin:tones", facts=["builtin:tones", sounds])
    if name == "visits":
        return open_arrays(visits(), modality, Choice(), where="builtin:visits, synthetic visitors of a shop", facts=["builtin:visits"])
    if name == "waves":
        series, shapes = waves()
        return open_arrays(
            {"series": series, "label": shapes, "classes": np.array(SHAPES)}, modality, Choice(), "builtin:waves", [name, series]
        )
    from sklearn import datasets

    if name in ("cancer", "wine"):
        return _table({"cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}[name], name, modality)
    if name == "digits":
        digits: Any = datasets.load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from 0..16
        labels, classes = digits.target, tuple(map(str, range(10)))
    else:
        photos: Any = datasets.load_sample_images()
        tiles = [_tiles(np.asarray(photo), 64) for photo in photos.images]
        images, labels = np.concatenate(tiles), np.repeat(np.arange(len(tiles)), [len(tile) for tile in tiles])
        classes = tuple(Path(name).stem for name in photos.filenames)
    return open_arrays((images, labels), modality, Choice(), where=f"builtin:{name}", facts=[f"builtin:{name}", images], classes=classes)


def _table(load: Any, name: str, modality: Modality) -> Source:
    """A table of scikit-learn with the names of its columns and classes."""
    found = load(as_frame=True)
    frame = found.data.assign(target=[str(found.target_names[number]) for number in found.target])
    where = f"builtin:{name}"
    return tables.open_tables(
        {"all": [frames.of_frame(frame, where, "table")]}, modality, [where, frame.to_numpy()[:, 0].tolist()], where, Choice()
    )


def _topics() -> np.ndarray:
    """Paragraphs (N,) of Python's built-in language help."""
    from pydoc_data.topics import topics

    found = (" ".join(paragraph.split()) for text in topics.values() for paragraph in text.split("\n\n"))
    return np.array([paragraph[:2000] for paragraph in found if len(paragraph) > 60])


def _tiles(photo: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) -> (tiles, side, side, 3), without incomplete tiles."""
    rows, columns = photo.shape[0] // side, photo.shape[1] // side
    cut = photo[: rows * side, : columns * side].reshape(rows, side, columns, side, 3)
    return cut.swapaxes(1, 2).reshape(-1, side, side, 3)


def _part(values: dict[str, np.ndarray], labels: np.ndarray | None, name: str, tensor: bool) -> Part:
    rows = len(next(iter(values.values())))
    for array in (*values.values(), *([] if labels is None else [labels])):
        if len(array) != rows:
            raise UserError(f"{name} has {rows:,} rows in one array but {len(array):,} in another; give the same number of each")

    def at(i: int) -> Record:
        return {
            **{field: array[i] for field, array in values.items()},
            "label": None if labels is None else _plain_label(labels[i]),
            "name": f"{name} row {i}",
            **({"tensor": True} if tensor else {}),  # torch's axis conventions apply
        }

    def records() -> Iterator[Record]:
        return (at(i) for i in range(rows))

    return Part(rows, records, at)


def _plain_label(label: np.ndarray) -> Any:
    """A label, or the numbers of the classes that a row of indicators marks; None if one of them is missing (-1)."""
    if label.ndim == 0:
        return label.item()
    return None if (label < 0).any() else tuple(np.flatnonzero(label).tolist())


def _by_key(arrays: dict[str, Any], modality: Modality, choice: Choice, where: str):
    """Arrays by key -> splits {"train": ({field: array}, labels)}, and class names if there are any."""
    keys = {key: _split_key(key) for key in arrays}
    names = arrays.get("classes", arrays.get("class_names"))
    parts: dict[str, tuple[dict[str, np.ndarray], np.ndarray | None]] = {}
    for part in dict.fromkeys(part for part, _ in keys.values()):
        here = {rest.lower(): key for key, (own, rest) in keys.items() if own == part}
        values = {}
        for field, usual in (modality.fields | modality.extras | ({GROUP: ()} if GROUP in choice.columns else {})).items():
            allowed = (choice.columns[field],) if field in choice.columns else (field, *usual, *(DATA if field in modality.fields else ()))
            key = next((here[name.lower()] for name in allowed if name.lower() in here), None)
            if key is not None:
                values[field] = to_numpy(arrays[key])
        if not modality.fields.keys() <= values.keys():
            continue
        allowed = (choice.label,) if choice.label else LABELS
        key = next((here[name.lower()] for name in allowed if name.lower() in here), None)
        if choice.label and key is None:
            raise UserError(f"no key {choice.label} in {where}; its keys are {', '.join(arrays)}: give --label NAME")
        parts["all" if part is None else part] = values, None if key is None else _to_labels(arrays[key])
    if not parts:
        field = next(iter(modality.fields))
        raise UserError(f"no key of {where} is recognised as the {field}; its keys are {', '.join(arrays)}: give --columns {field}=KEY")
    classes = None
    known = [labels for _, labels in parts.values() if labels is not None]
    numbers = all(labels.dtype.kind in "ui" and labels.min(initial=0) >= -1 for labels in known)
    several = names is not None and all(labels.shape[1:] == (len(names),) for labels in known)  # (rows, classes)
    if names is not None and known and (several or (numbers and len(names) > max(labels.max(initial=0) for labels in known))):
        classes = tuple(map(str, names))
    return parts, classes


def _split_key(key: str) -> tuple[str | None, str]:
    """ "train_images" and "images_train" -> ("train", "images")."""
    words = key.split("_")
    for i in (0, -1):
        if len(words) > 1 and words[i].lower() in PARTS:
            return PARTS[words[i].lower()], "_".join(words[1:] if i == 0 else words[:-1])
    return (PARTS[key.lower()], "x") if key.lower() in PARTS else (None, key)
