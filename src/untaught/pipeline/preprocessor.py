"""What decoding needs to have learned of the data first, as a tokenizer: once for a source, kept in the cache, the run and the encoder."""

from __future__ import annotations

import json
from pathlib import Path

from untaught.console import progress_bar
from untaught.core import Files, Modality, Options, UserError
from untaught.data.identity import fingerprint
from untaught.data.parts import TRAIN, Source
from untaught.data.store import cache_folder
from untaught.storage.atomic import whole, write_bytes, write_text
from untaught.storage.safe_load import read_json
from untaught.storage.safe_open import read_file

LARGEST = 1 << 26  # bytes of a file


def learn(source: Source, modality: Modality, layout: Options) -> Options:
    """The whole layout, its files adopted: learned from the training part, or read from where an earlier run has kept them."""
    assert modality.learn is not None
    key = fingerprint([source.fingerprint, modality.name, sorted(layout.items(), key=str)])
    place = cache_folder() / "learned" / key
    try:
        found = read_json(place / "layout.json", place)
        adopt(modality, found, place)
        return found
    except UserError:
        pass  # not there, or damaged: learned anew
    part = source.parts.get(TRAIN) or next(iter(source.parts.values()))
    with progress_bar("learning") as bar:
        bar.add_task("", total=None, note=", ".join(modality.files))
        learned, files = modality.learn(iter(part), layout)
    try:
        with whole(place) as partial:
            partial.mkdir(parents=True)
            write_files(files, partial)
            write_text(partial / "layout.json", json.dumps(learned))
    except OSError:
        pass  # the run keeps them as well
    return learned


def files_of(modality: Modality, folder: Path, within: Path | None = None) -> Files:
    """The files of a layout that lie in a folder; links may not lead out of it, or of `within`. Raises UserError where one is missing."""
    files: Files = {}
    for name in modality.files:
        try:
            files[name] = read_file(folder / name, LARGEST, within or folder)
        except UserError as error:
            raise UserError(f"{error}; copy the whole folder") from error
    return files


def adopt(modality: Modality, layout: Options, folder: Path, within: Path | None = None) -> None:
    """Makes the files of a layout known that lie beside it."""
    if modality.files:
        modality.adopt(layout, files_of(modality, folder, within))


def write_files(files: Files, folder: Path) -> None:
    for name, content in files.items():
        write_bytes(folder / name, content)
