"""The page of a run: whole, self-contained, harmless, and there for half a run too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from runs import NASTY, QUOTED, RUN, metrics, sample

from untaught.core import UserError
from untaught.report import write
from untaught.report.page import NAMES, _neighbours, _style, content
from untaught.report.run_summary import gather

SECTIONS = ["What to try next", "Evaluation", "Training", "Health", "Views seen by the network"]
SECTIONS += ["Nearest neighbours", "Map of the embedding", "Reproduce"]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a browser would make of it: tags in order, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.island = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open and self.tags[-1][1].get("type"):
            self.island += data
        elif "script" not in self.open and "style" not in self.open:
            self.text += data

    @property
    def headings(self) -> list[str]:
        return [h for h in SECTIONS if h in self.text]


def test_a_whole_run_shows_everything(run: Path) -> None:
    path = write(run)
    page = Page(path.read_text())
    assert path == run / "report.html"
    assert page.headings == SECTIONS
    assert "Missing" not in page.text
    for said in (
        "75.0%",
        "73.0% to 77.0%",
        "same encoder, random init",
        "Linear probe: accuracy, 2 labels per class",
        "fingerprint abc",
        "<b>run & co",
    ):
        assert said in page.text, said
    assert "Linear probe: accuracy by labels" in page.text
    assert "--label" in page.text
    assert "collapsing" in page.text


def test_nothing_that_data_holds_becomes_markup(run: Path) -> None:
    html = write(run).read_text()
    page = Page(html)
    assert [attributes.get("type") for tag, attributes in page.tags if tag == "script"] == ["application/json", None]
    assert [attributes["class"] for tag, attributes in page.tags if tag == "img"] == ["views"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert NASTY in page.text
    assert QUOTED in page.text
    places = json.loads(page.island)
    assert set(places["classes"]) == {"cat", QUOTED, NASTY}
    assert places["name"][3] == f"3{NASTY}"


def test_nothing_is_fetched(run: Path) -> None:
    page = Page(write(run).read_text())
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href", "action", "srcset")]
    assert all(link and link.startswith("data:") for link in links)
    assert not re.search(r"https?://|@import|url\((?!data:)", (run / "report.html").read_text())


def test_neighbours_are_the_nearest_by_cosine(run: Path) -> None:
    given = sample()
    found = content(gather(run))["neighbours"]
    assert len(found) == 8
    assert {row["query"]["label"] for row in found[:3]} == {"cat", QUOTED, NASTY}
    unit = [vector / np.linalg.norm(vector) for vector in given["features"]]
    for row in found:
        query = 40 * row["query"]["row"] + row["query"]["column"]
        assert given["held_out"][query]
        bank = [i for i in range(60) if not given["held_out"][i]]
        nearest = sorted(bank, key=lambda i: -float(unit[i] @ unit[query]))[:8]
        assert [40 * tile["row"] + tile["column"] for tile in row["near"]] == nearest
        assert [tile["other"] for tile in row["near"]] == [given["label"][i] != given["label"][query] for i in nearest]


def told(run: Path) -> None:
    """As of a text, whose names say what there is to see."""
    np.savez(run / "sample.npz", **{key: value for key, value in sample().items() if key != "thumbnail"})


def test_samples_that_words_tell_are_read(run: Path) -> None:
    told(run)
    page = Page(write(run).read_text())
    found = content(gather(run))["neighbours"]
    assert [len(row["near"]) for row in found] == [3] * 8
    for row in found:
        assert row["query"]["name"] in page.text
        assert all(tile["name"] in page.text for tile in row["near"])
    assert not [attributes for _, attributes in page.tags if attributes.get("class") == "thumb"]
    assert "Missing" not in page.text


def test_labels_are_in_order_on_the_axis(run: Path) -> None:
    (title, svg, curves), *rest = content(gather(run))["label_curves"]
    assert title == "Linear probe: accuracy by labels"
    assert not rest
    assert re.findall(r">(\d+/class|\d+%|all)</text>", str(svg))[-4:] == ["2/class", "10/class", "10%", "all"]
    assert [curve.name for curve in curves] == ["raw data", "same encoder, random init", "this encoder", f"timm/{NASTY}"]
    lines = re.findall(r'<path class="line s-encoder" d="([^"]*)"', str(svg))
    assert [line.count("L") + 1 for line in lines] == [2, 2], "no line joins 10 a class to 10%: that may be fewer labels"


HALF = {  # what is left of a run -> what its page says
    "a crash before the first row": (("run.yaml",), "has no training steps", ["Reproduce"]),
    "a crash on the way": (("run.yaml", "metrics.jsonl", "views.png"), "reach step 40", None),
    "only metrics": (("metrics.jsonl",), "settings are unknown", ["Training", "Health"]),
    "only scores": (("evaluation.json",), "Training has not ended", ["Evaluation"]),
}


@pytest.mark.parametrize("case", HALF)
def test_half_a_run_shows_what_there_is(case: str, run: Path) -> None:
    names, said, headings = HALF[case]
    for path in list(run.iterdir()):
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write(run).read_text())
    assert "Missing" in page.text
    assert said in page.text
    assert "not finished" in page.text
    assert set(headings or ["Training", "Health", "Reproduce"]) <= set(page.headings)
    assert "Map of the embedding" not in page.text


def test_damaged_files_are_passed_over_and_said(run: Path) -> None:
    cut = "".join(json.dumps(row) + "\n" for row in metrics(5)) + '{"step": 6, "lo'
    (run / "metrics.jsonl").write_text(cut + "\nnot json\n[1]\n")
    (run / "evaluation.json").write_text('{"schema": 7, "rows": []}')
    (run / "sample.npz").write_bytes(b"PK\x03\x04cut")
    (run / "views.png").write_bytes(b"\x89PNG cut")
    page = Page(write(run).read_text())
    assert "has schema 7, this version reads 1" in page.text
    assert "No samples were saved" in page.text
    assert "step 5" in page.text
    assert not [tag for tag, _ in page.tags if tag == "img"]


def test_a_run_without_labels(run: Path) -> None:
    (run / "evaluation.json").unlink()
    np.savez(run / "sample.npz", **(sample() | {"label": np.array([""] * 60), "held_out": np.zeros(60, bool)}))
    page = Page(write(run).read_text())
    assert "the encoder has not been evaluated yet" in page.text
    assert "Left: a training sample" in page.text
    places = json.loads(page.island)
    assert places["classes"] == []
    assert set(places["kind"]) == {-1}
    for row in content(gather(run))["neighbours"]:
        assert row["query"] not in row["near"]


def test_no_sample_is_its_own_neighbour_however_far_the_others_are() -> None:
    apart = np.array([[1.0, 0.0], [-1.0, 0.1], [-1.0, -0.2]], np.float32)
    told = {"name": np.array(["a", "b", "c"]), "label": np.array([""] * 3), "held_out": np.zeros(3, bool), "features": apart}
    found = {row["query"]["name"]: [tile["name"] for tile in row["near"]] for row in _neighbours(told)}
    assert found == {"a": ["c", "b"], "b": ["c", "a"], "c": ["b", "a"]}


def test_scores_of_two_data_sets_are_not_mixed(run: Path) -> None:
    read = json.loads((run / "evaluation.json").read_text())
    own = [{**row, "data": "photos"} for row in read["rows"]]
    other = [{**row, "data": "others/", "mean": 0.31} for row in own if row["features"] in ("encoder", "raw") and row["labels"] == "all"]
    (run / "evaluation.json").write_text(json.dumps({"schema": 1, "rows": own + other}))
    shown = content(gather(run))
    tile = next(tile for tile in shown["tiles"] if tile[1] == "Linear probe")
    assert tile[0] == "31.0%"
    assert "raw data 31.0%" in tile[2]
    assert "random init" not in tile[2], "random init was measured on other data"
    titles = [group["title"] for group in shown["battery"]]
    assert "Linear probe: accuracy on photos" in titles
    assert "Linear probe: accuracy on others/" in titles


def test_metrics_of_every_kind_are_shown_in_their_own_unit(run: Path) -> None:
    row = {"features": "encoder", "labels": "all", "low": 0.2, "high": 0.6, "draws": 1, "data": RUN["data"]}
    kinds = {("ridge", "r2"): 0.4, ("ridge", "mae"): 0.5, ("frozen", "entity_f1"): 0.3, ("frozen", "word_accuracy"): 0.9}
    rows = [row | {"probe": probe, "metric": metric, "mean": mean} for (probe, metric), mean in kinds.items()]
    rows += [row | {"probe": "retrieval", "labels": "none", "metric": f"image_to_text_recall@{k}", "mean": k / 10} for k in (1, 5)]
    (run / "evaluation.json").write_text(json.dumps({"schema": 1, "rows": rows}))
    shown = content(gather(run))
    values = {title: value for value, title, _ in shown["tiles"]}
    assert values["Ridge regression: R2"] == "0.4"
    assert values["Linear head on the frozen encoder: entity F1"] == "30.0%"
    assert values["Retrieval: image to text recall@1"] == "10.0%"
    bars = {group["title"]: group["rows"][0]["value"] for group in shown["battery"]}
    assert bars["Ridge regression: MAE"] == "0.5"
    assert bars["Linear head on the frozen encoder: word accuracy"] == "90.0%"
    assert bars["Retrieval: image to text recall@5"] == "50.0%"


def test_first_come_the_scores_on_the_runs_own_data_and_others_are_named(run: Path) -> None:
    read = json.loads((run / "evaluation.json").read_text())
    own = [{**row, "data": RUN["data"]} for row in read["rows"]]
    other = [{**row, "data": "others/", "mean": 0.31} for row in own if row["labels"] == "all"]
    (run / "evaluation.json").write_text(json.dumps({"schema": 1, "rows": own + other}))
    tile = next(tile for tile in content(gather(run))["tiles"] if tile[1] == "Linear probe")
    assert tile[0] == "75.0%"
    assert "on " not in tile[2]
    assert not any("31" in advice.because for advice in content(gather(run))["advice"])

    (run / "evaluation.json").write_text(json.dumps({"schema": 1, "rows": other}))
    tile = next(tile for tile in content(gather(run))["tiles"] if tile[1] == "Linear probe")
    assert tile[0] == "31.0%"
    assert tile[2].startswith("on others/: ")
    assert any(advice.because.startswith("linear on others/: ") for advice in content(gather(run))["advice"])


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder; give"):
        write(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"is not a run folder \(no run.yaml"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_commands_repeat_the_run(run: Path) -> None:
    asked, again = content(gather(run))["commands"]
    assert asked.startswith(
        "untaught pretrain 'photos <script>alert(1)</script>/' --method simclr --encoder conv_small --modality image --label "
    )
    assert asked.endswith(" minutes=0.5")
    assert "--from" in again
    facts = gather(run)
    facts.run = RUN | {"data": "in memory: arrays"}
    assert content(facts)["commands"] == []


def test_many_large_thumbnails_stay_small(run: Path) -> None:
    given = sample(1500)
    smooth = np.linspace(0, 255, 48).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 40, (1500, 48, 48, 3), dtype=np.uint8)
    given["thumbnail"] = (smooth[None, :, None, None] // 2 + smooth[None, None, :, None] // 3 + noise).astype(np.uint8)
    np.savez(run / "sample.npz", **given)
    assert write(run).stat().st_size < 5e6


# ------------------------------------------------------------------------------------------------------- in a browser

POKE = """<script>
const spots = document.querySelectorAll(".chart, #map canvas"), lines = [];
for (const target of spots) {
  const box = target.getBoundingClientRect();
  for (let x = box.left; x < box.right; x += 9) for (let y = box.top; y < box.bottom; y += 9)
    target.dispatchEvent(new PointerEvent("pointermove", {clientX: x, clientY: y, bubbles: true}));
  if (target.tagName === "CANVAS") lines.push("tip " + document.querySelector(".tip b").textContent);
  else lines.push("chart " + target.nextElementSibling.textContent);
  target.dispatchEvent(new PointerEvent("pointerleave", {pointerType: "mouse"}));
}
document.querySelectorAll(".legend button").forEach(button => button.click());
lines.push("wide " + (document.documentElement.scrollWidth - document.documentElement.clientWidth));
const said = document.createElement("pre"); said.id = "said"; said.textContent = lines.join("\\n"); document.body.append(said);
</script>"""


def browse(page: Path, width: int = 1280) -> tuple[list[str], str]:
    """-> what the console said, the page after its scripts."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no chromium or google-chrome on this machine")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--window-size={width},900",
        f"--user-data-dir={page.parent / 'profile'}",
    ]
    command = [browser, *options, "--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("words", [False, True], ids=["images", "text"])
def test_no_console_error_in_a_browser(run: Path, width: int, words: bool) -> None:
    if words:
        told(run)
    html = write(run).read_text()
    poked = run.parent / "poked.html"
    poked.write_text(html.replace("</body>", f"{POKE}</body>"))
    console, dom = browse(poked, width)
    assert console == []
    said = dom.partition('<pre id="said">')[2].partition("</pre>")[0].splitlines()
    assert len([line for line in said if line.startswith("chart step")]) >= 8
    assert any(line.startswith("tip ") and len(line) > 5 for line in said)
    assert said[-1] == "wide 0"


def test_a_console_error_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<script>nothing.there()</script>")
    console, _ = browse(tmp_path / "bad.html")
    assert "nothing is not defined" in "".join(console)


@pytest.mark.parametrize("features", [*NAMES, "against:timm/resnet18", "mini_rocket", "window_ridge"])
def test_every_bar_has_a_colour(features: str) -> None:
    text = files("untaught.report").joinpath("page.html").read_text()
    assert re.search(rf"\.{_style(features)}[ ,]", text)
