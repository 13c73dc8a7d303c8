"""Preprocessors: planned from data, saved with a run or an encoder, loaded again."""

from __future__ import annotations

import json
import os
from pathlib import Path

from untaught.console import progress_bar
from untaught.core import Files, Modality, Options, Preprocessor, Record, UserError
from untaught.data.identity import change_time, file_facts, fingerprint
from untaught.data.parts import TRAIN, Source
from untaught.data.store import cache_folder
from untaught.storage.atomic import replacing, write_bytes, write_text
from untaught.storage.safe_load import read_json
from untaught.storage.safe_open import read_file

LARGEST = 1 << 26  # bytes of a file


def plan(source: Source, records: list[Record], modality: Modality, overrides: Options) -> Preprocessor:
    """Plans from the first records and, for text, the full training split. Statistics are fitted later.

    Raises UserError for impossible overrides, and if no record can be read.
    """
    settings = modality.plan(records, overrides)
    return Preprocessor(modality, settings) if modality.learn is None else _learn(source, modality, settings)


def _learn(source: Source, modality: Modality, settings: Options) -> Preprocessor:
    """With files learned from the training split, cached by the data's fingerprint and the settings."""
    assert modality.learn is not None
    key = fingerprint([source.version, modality.name, sorted(settings.items(), key=str), _files_named(settings)])
    place = cache_folder() / "learned" / key
    try:
        return load(modality, read_json(place / "layout.json", place), {}, place)
    except UserError:
        pass  # missing or damaged: learned again
    part = source.parts.get(TRAIN) or next(iter(source.parts.values()))
    with progress_bar("learning") as bar:
        bar.add_task("", total=None, note=", ".join(modality.files))
        settings, files = modality.learn(iter(part), settings)
    prep = Preprocessor(modality, settings, files=files)
    try:
        with replacing(place) as partial:
            partial.mkdir(parents=True)
            save_files(prep.files, partial)
            write_text(partial / "layout.json", json.dumps(prep.settings))
    except OSError:
        pass  # the run saves them as well
    return prep


def _files_named(settings: Options) -> list[tuple[str, int, int, int]]:
    """Path, size and times of modification and change of files named in settings, e.g. a tokenizer's: their contents may change later."""
    places = [Path(value) for value in settings.values() if isinstance(value, str) and os.sep in value and Path(value).exists()]
    files = [path for place in places for path in (sorted(place.iterdir()) if place.is_dir() else [place]) if path.is_file()]
    return [(*file_facts(path), change_time(path)) for path in files]


def load(modality: Modality, settings: Options, statistics: Options, folder: Path, within: Path | None = None) -> Preprocessor:
    """With the files in the folder; links must not lead out of it, or out of `within`.

    Raises UserError if a file is missing or belongs to other settings.
    """
    files: Files = {}
    for name in modality.files:
        try:
            files[name] = read_file(folder / name, LARGEST, within or folder)
        except UserError as error:
            raise UserError(f"{error}; copy the whole folder") from error
    modality.check_files(settings, files)
    return Preprocessor(modality, settings, statistics, files)


def save_files(files: Files, folder: Path) -> None:
    for name, content in files.items():
        write_bytes(folder / name, content)
