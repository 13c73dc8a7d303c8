"""The list of runs: finished, unfinished and damaged ones, as rows, text, csv and a page."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from runs import NASTY, RUN, whole_run

from untaught.core import UserError
from untaught.report.runs import COLUMNS, as_text, list_runs, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    whole_run(place / "whole")
    whole_run(place / "b" / "seed-1")
    (place / "b" / "evaluation.json").write_text('{"schema": 1, "rows": []}')  # of several seeds: no run
    shutil.rmtree(place / "b" / "seed-1" / "encoder")
    (place / "cut").mkdir()
    (place / "cut" / "run.yaml").write_text("data: [")
    (place / "begun").mkdir()
    (place / "begun" / "run.yaml").write_text(yaml.safe_dump({**RUN, "method": "zzz"}))
    (place / "scores").mkdir()
    (place / "scores" / "metrics.jsonl").write_text('{"step": 3, "loss": 1.5, "seconds": 30}\n{"step": 4, "lo')
    (place / "scores" / "evaluation.json").write_text("{")
    (place / "whole" / "checkpoints").mkdir()
    (place / "whole" / "checkpoints" / "run.yaml").write_text("not a run of its own")
    (place / "notes").mkdir()
    (place / "tuned").mkdir()  # a fine-tuned model: no run
    (place / "tuned" / "metrics.jsonl").write_text('{"step": 3, "loss": 1.5}\n')
    (place / "tuned" / "config.json").write_text("{}")
    return place


def test_each_run_is_a_row_and_what_is_wrong_is_said(folder: Path) -> None:
    rows = {row["run"]: row for row in list_runs(folder)}
    assert list(rows) == ["b/seed-1", "begun", "cut", "scores", "whole"]
    assert all(set(COLUMNS) <= row.keys() for row in rows.values())
    whole = rows["whole"]
    assert whole["state"] == "finished"
    assert whole["probe"] == "linear"
    assert whole["metric"] == "accuracy"
    found = {row["features"]: row["mean"] for row in json.loads((folder / "whole" / "evaluation.json").read_text())["rows"] if
             (row["probe"], row["labels"]) == ("linear", "all")}  # fmt: skip
    assert (whole["score"], whole["random_init"], whole["raw"]) == (found["encoder"], found["random_init"], found["raw"])
    assert whole["steps"] > 0
    assert whole["minutes"] > 0
    assert rows["b/seed-1"]["state"].startswith("not finished, at step")
    assert "not finished" in rows["begun"]["state"]
    assert rows["begun"]["method"] == "zzz"
    assert "settings are unknown" in rows["cut"]["state"]
    assert rows["scores"]["steps"] == 3
    assert rows["scores"]["minutes"] == 0.5
    assert "evaluation.json can't be read" in rows["scores"]["state"]


def test_sorted_by_a_column(folder: Path) -> None:
    steps = [row["steps"] for row in list_runs(folder, "steps")]
    assert steps[-2:] == [None, None]
    assert steps[:-2] == sorted((step for step in steps if step is not None), reverse=True)
    assert [row["method"] for row in list_runs(folder, "method")][-1] == "zzz"
    with pytest.raises(UserError, match="unknown column scor; did you mean score"):
        list_runs(folder, "scor")


def test_a_folder_without_runs_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="notes has no runs"):
        list_runs(folder / "notes")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        list_runs(tmp_path / "nowhere")
    assert [row["run"] for row in list_runs(folder / "whole")] == ["."]


def test_a_table_or_on_a_narrow_terminal_paragraphs(folder: Path) -> None:
    rows = list_runs(folder)
    lines = as_text(rows, None).splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:2] == ["run", "data"]
    narrow = as_text(rows, 60).splitlines()
    assert narrow[0] == "b/seed-1"
    assert narrow[1].startswith("  data: ")
    assert not any("\x1b" in line or "\x00" in line for line in lines)


def test_a_csv_file(folder: Path, tmp_path: Path) -> None:
    rows = list_runs(folder)
    place = write(rows, folder, tmp_path / "runs.csv")
    with open(place, newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["run"] for row in found] == [row["run"] for row in rows]
    assert float(found[-1]["score"]) == rows[-1]["score"]
    assert not any(row["data"].startswith(("=", "@", "+")) for row in found)
    write(rows, folder, place)  # its own file is replaced
    (tmp_path / "notes.csv").write_text("mine\n")
    with pytest.raises(UserError, match="was not written by untaught"):
        write(rows, folder, tmp_path / "notes.csv")
    with pytest.raises(UserError, match=r"has the ending \.txt; allowed: \.csv and \.html"):
        write(rows, folder, tmp_path / "runs.txt")


def test_a_page_that_is_self_contained_and_escapes_what_it_shows(folder: Path, tmp_path: Path) -> None:
    (folder / "whole" / "report.html").write_text("a report")
    place = write(list_runs(folder), folder, tmp_path / "pages" / "runs.html")
    page = place.read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert '<a href="../runs/whole/report.html">whole</a>' in page
    assert NASTY not in page
    assert page.count("<tr>") == 1 + 5
    assert "default-src 'none'" in page
    write(list_runs(folder), folder, place)
