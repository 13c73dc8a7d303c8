"""The README, .ci/run and the documents say the same, and what they say runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import untaught as ut

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_readmes_own_test_line():
    (line,) = [line for line in README.splitlines() if line.endswith("&& pytest")]
    assert line in (ROOT / ".ci/run").read_text().splitlines()
    assert line in (ROOT / "CONTRIBUTING.md").read_text().splitlines()


def test_readme_sets_up_and_shows_the_demo_in_one_line():
    assert "python3 -m venv .venv && . .venv/bin/activate && pip install . && untaught demo" in README.splitlines()


def test_readmes_tree_names_every_room():
    rooms = {path.name for path in (ROOT / "src/untaught").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(re.findall(r"^  (\w+)/ ", README, re.M))


@pytest.mark.parametrize("number", [0, 1, 3], ids=["function", "class", "players"])
def test_a_method_in_the_documents_trains(number, tmp_path, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/methods.md").read_text(), re.S)[number]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ut, "pretrain", lambda *args, **knobs: _pretrain(*args, **(knobs | {"steps": 3})))
    names: dict = {"__name__": "notebook"}
    exec(compile(code, "docs/methods.md", "exec"), names)
    assert names["run"].encoder.width > 0


_pretrain = ut.pretrain


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_links_to_files_of_ours_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []
