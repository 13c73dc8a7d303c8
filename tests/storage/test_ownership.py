"""What is in the way of a file of ours, and what may become of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pytest
from PIL import Image

from untaught.core import UserError
from untaught.report.method_cards import write_pages
from untaught.storage.cells import plain_cell, plain_cells
from untaught.storage.ownership import check_replaceable, is_ours, signed


def test_files_of_ours_are_known_by_what_they_hold(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.zeros((3, 2), np.float32))
    pandas.DataFrame({"name": ["a"], "vector": [[0.5]]}).to_parquet(tmp_path / "v.parquet")
    (tmp_path / "p.csv").write_text('"name","label","probability","p_a"\n"x","a",1,1\n')
    Image.new("RGB", (9, 9)).save(tmp_path / "p.png", pnginfo=signed())
    (tmp_path / "report.html").write_text("<!doctype html>\n<title>run \u00b7 untaught</title>")
    for path in tmp_path.iterdir():
        assert is_ours(path), path
        check_replaceable(path, "choose another --out")
    check_replaceable(tmp_path / "none.csv", "choose another --out")


def test_files_of_the_user_are_not_replaced(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    np.save(tmp_path / "one.npy", np.zeros(3, np.float32))
    pandas.DataFrame({"image": ["a"], "label": ["b"]}).to_parquet(tmp_path / "t.parquet")
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    for name, text in (
        ("t.csv", "file,label\na,b\n"),
        ("n.csv", "name,age\na,1\n"),
        ("v.csv", "value,age\na,1\n"),
        ("e.csv", ""),
        ("x.parquet", "mine"),
        ("report.html", "mine"),
        ("a.txt", "mine"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere")
    for path in list(tmp_path.iterdir()):
        with pytest.raises(UserError, match=f"{path.name} already exists and was not written by untaught; move it away"):
            check_replaceable(path, "move it away")


def test_pages_are_written_anew_beside_what_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "NOTES.md").write_text("mine")
    count = write_pages(tmp_path)
    (tmp_path / "gone.md").write_text((tmp_path / "simclr.md").read_text().replace("# simclr", "# gone"))
    assert write_pages(tmp_path) == count
    assert (tmp_path / "NOTES.md").read_text() == "mine"
    assert not (tmp_path / "gone.md").exists(), "a page of a method that is no more stays"
    for name in ("README.md", "simclr.md"):
        (tmp_path / name).write_text("mine")
        before = (tmp_path / "vicreg.md").stat().st_mtime_ns
        with pytest.raises(UserError, match=f"{name} already exists and was not written by untaught; choose another folder"):
            write_pages(tmp_path)
        assert (tmp_path / "vicreg.md").stat().st_mtime_ns == before
        (tmp_path / name).unlink()


@pytest.mark.parametrize("text", ["=1+1", "+1+cmd", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "-", "\uff1d1+1", "-1e", "+x"])
def test_what_a_spreadsheet_would_compute_gets_an_apostrophe(text: str) -> None:
    assert plain_cell(text).startswith("'")
    assert plain_cell(text).isprintable()


@pytest.mark.parametrize("text", ["", "a", "a=1", "-0.5", "+3", "-1e-7", ".5", "007", "'=1", "\u06cc\u200c\u0627", "1 + 1", "cat.png"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert plain_cell(text) == text


def test_cells_that_a_terminal_would_obey() -> None:
    table = pa.table({"name": ["\x1b[2J", "a\u202eb", None, "c\x9b\n"], "p_\x1b[31m": [0.5, -1.0, None, 2.0]})
    plain = plain_cells(table)
    assert plain.to_pydict() == {"name": ["\\x1b[2J", "a\\u202eb", None, "c\\x9b\\n"], "p_\\x1b[31m": [0.5, -1.0, None, 2.0]}
    assert plain.schema.field(1).type == pa.float64()
