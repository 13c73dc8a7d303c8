"""Cards: read from the sources, what was measured from one file, and the pages in docs/ are those that the command writes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Cli

from untaught.config.help import meanings_of
from untaught.config.overrides import sort_knobs
from untaught.config.registry import method_class, modality_named
from untaught.config.train_config import TrainConfig
from untaught.methods import METHODS
from untaught.modalities import MODALITIES
from untaught.modalities.image import IMAGE
from untaught.report import method_cards as cards

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts entries where measured.yaml stands."""

    def write(entries: dict[str, Any]) -> None:
        (tmp_path / "measured.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(entries))))  # no list twice: that would be an alias
        cards.measured.cache_clear()

    monkeypatch.setattr(cards, "MEASURED", tmp_path / "measured.yaml")
    yield write
    cards.measured.cache_clear()


# -------------------------------------------------------------------------------------------------------- what knobs mean


def knobs(
    first: int,
    *,
    plain: int = 1,  # what plain means
    none: int = 2,
    pair: tuple[float, float] = (0.1, 0.2),  # what a pair means, with a # in it
    broken: tuple[float, ...] = (
        0.1,  # of a part
        0.2,
    ),  # what broken means
) -> None:
    """Has comments beside its knobs."""
    first += none  # of the body


def test_a_meaning_is_the_comment_beside_the_knob() -> None:
    assert meanings_of(knobs) == {"plain": "what plain means", "pair": "what a pair means, with a # in it", "broken": "what broken means"}


def test_of_what_has_no_source_nothing_is_known() -> None:
    names: dict[str, Any] = {}
    exec("def typed(views, encoder, *, scale=1): pass", names)
    assert meanings_of(names["typed"]) == {}


def test_a_hybrid_has_the_meanings_of_its_methods() -> None:
    assert meanings_of(method_class("simclr+byol"))["byol.momentum"] == meanings_of(method_class("byol"))["momentum"]


# ------------------------------------------------------------------------------------------------------------------ cards


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("SimCLR. Chen, Kornblith, Norouzi, Hinton, ICML 2020. https://x.y", "Chen et al. 2020"),
        ("SimSiam. Chen, He, CVPR 2021. https://x.y", "Chen, He 2021"),
        ("LeJEPA. Balestriero, LeCun 2025. https://x.y", "Balestriero, LeCun 2025"),
        ("CPC, on images. van den Oord, Li, Vinyals 2018. https://x.y", "van den Oord et al. 2018"),
        ("BYOL. Grill, Strub et al., NeurIPS 2020. https://x.y", "Grill et al. 2020"),
        ("Twins", ""),
    ],
)
def test_a_paper_is_cited_from_the_first_line(header: str, said: str) -> None:
    assert cards.citation(header) == said


@pytest.mark.parametrize("name", METHODS)
def test_every_card_is_whole_and_its_example_is_understood(name: str) -> None:
    (card,) = cards.method_cards(name)
    assert all(card[key] for key in ("family", "paper", "views", "needs", "link", "header"))
    assert all(knob["meaning"] for knob in card["knobs"].values())
    modality = next(kind for kind in map(modality_named, MODALITIES) if set(method_class(name).views) <= set(kind.views))
    data = "photos/" if modality is IMAGE else f"{modality.noun}/ --modality {modality.name}"
    title = name if method_class(name).alone else f"dinov2+{name}:0.5"
    begin = f"untaught pretrain {data} --method {title} "
    assert card["example"].startswith(begin)
    words = card["example"].removeprefix(begin).split()
    knobs = sort_knobs(dict(word.split("=") for word in words), method_class(title), modality, TrainConfig)["method"]
    assert knobs.pop("teachers", ("timm/resnet18",)) == ("timm/resnet18",)
    assert set(knobs.values()) <= {knob["default"] for knob in card["knobs"].values()}


FOUND = {
    "data": "CIFAR-10",
    "minutes": 1,
    "seeds": 3,
    "encoder": "conv_small",
    "batch": 256,
    "steps": 120,
    "peak_mib": 1400,
    "knn20": 0.523,
    "untrained_knn20": 0.366,
    "linear": 0.6,
    "untrained_linear": 0.43,
    "one_percent": 0.4,
    "health": "healthy",
    "speed": {"rounds": 3, "pictures_per_second": [950.4, 900, 1010], "cost": [1.25, 1.2, 1.31]},
}


def test_what_was_measured_is_on_the_card_and_the_rest_is_blank(written: Any) -> None:
    written({"byol": FOUND})
    listed = {card["name"]: card for card in cards.method_cards()}
    assert (listed["byol"]["cost"], listed["byol"]["score"]) == ("1.2", "52.3% (+15.7), 1 min")
    assert (listed["simclr"]["cost"], listed["simclr"]["score"]) == ("", "")
    said = cards.method_cards("byol")[0]["measured"]
    assert said == (
        "after 1 minute on CIFAR-10 (conv_small, batch 256, steps 120, seeds 3): kNN 52.3% (random init 36.6%), linear probe 60.0% "
        "(random init 43.0%), with 1% of the labels 40.0%; peak memory 1400 MiB; time per image 1.25 (1.2 to 1.31) times simclr's, "
        "950.4 (900 to 1010) images/s (median and range of 3 rounds)"
    )
    assert "| 52.3% (+15.7), 1 min | CIFAR-10 |" in cards.index_page()
    assert f"Measured: {said}." in cards.method_page("byol")
    assert "Measured: not yet." in cards.method_page("simclr")


def test_a_method_that_has_learned_nothing_yet_or_collapses_says_so(written: Any) -> None:
    written({"byol": FOUND | {"knn20": 0.37, "linear": 0.43}, "dino": FOUND | {"health": "the head gives one vector"}})
    assert "; no better than random init: it needs more time or more data" in cards.method_cards("byol")[0]["measured"]
    assert "; collapsing because the head gives one vector" in cards.method_cards("dino")[0]["measured"]
    assert "needs more time" not in cards.method_cards("dino")[0]["measured"]


def test_half_an_entry_is_half_a_sentence(written: Any) -> None:
    written({"byol": {key: FOUND[key] for key in ("data", "minutes", "encoder", "knn20", "untrained_knn20")}})
    assert cards.method_cards("byol")[0]["measured"] == "after 1 minute on CIFAR-10 (conv_small): kNN 52.3% (random init 36.6%)"
    assert cards.method_cards()[1]["cost"] == ""
    written({"byol": {"data": "photos", "minutes": 2, "encoder": "conv_small", "recall10": 0.2, "untrained_recall10": 0.25}})
    assert cards.method_cards("byol")[0]["score"] == "20.0% (-5.0), 2 min, text to image recall@10"


def test_the_file_that_is_shipped_is_of_our_methods_and_whole() -> None:
    for name, entry in cards.measured().items():
        assert name in METHODS
        assert {"data", "minutes", "encoder"} <= entry.keys() <= {*FOUND, "recall10", "untrained_recall10"}
        assert any({probe, f"untrained_{probe}"} <= entry.keys() for probe in cards.PROBES)


# ------------------------------------------------------------------------------------------------------------------ pages


def test_the_pages_are_fresh(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("# gone\n\nA method that is no more.\n\nFamily: none.\n\nMeasured: not yet.\n")
    assert cards.write_pages(tmp_path) == len(METHODS)
    new, old = ({path.name: path.read_text() for path in folder.iterdir()} for folder in (tmp_path, ROOT / "docs/methods"))
    assert new.keys() == old.keys() == {"README.md", *(f"{name}.md" for name in METHODS)}
    assert [name for name in new if new[name] != old[name]] == [], "untaught methods --write docs/methods"


def test_the_readme_has_the_methods_by_family() -> None:
    assert cards.families() in (ROOT / "README.md").read_text(), cards.families()


def test_the_command_writes_them_and_shows_one(cli: Cli, tmp_path: Path) -> None:
    done = cli("methods", "--write", tmp_path / "pages")
    assert done.code == 0, done.err
    assert done.err == f"wrote     {len(METHODS)} pages and README.md to {tmp_path / 'pages'}\n"
    assert (tmp_path / "pages" / "dino.md").read_text() == (ROOT / "docs/methods/dino.md").read_text()
    shown = cli("methods", "dino").out
    assert "  teacher_temperature  (0.04, 0.07)  the teacher's, at the start" in shown
    assert "example      untaught pretrain photos/ --method dino" in shown
    card = json.loads(cli("methods", "dino", "--json").out)
    assert card["knobs"]["momentum"] == {"default": 0.996, "meaning": "of the teacher at the start; rises to 1 on a cosine schedule"}


# ---------------------------------------------------------------------------------------------------------- from a benchmark


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("measured")
    finally:
        sys.path.pop(0)


def test_results_of_the_benchmark_become_entries(benchmark: Any, tmp_path: Path, written: Any) -> None:
    keys = ("minutes", "batch", "steps", "peak_mib", "health", "encoder")
    scores = {key: FOUND[key] for key in ("knn20", "untrained_knn20", "linear", "untrained_linear", "one_percent")}
    result = {key: FOUND[key] for key in keys} | scores
    results = [
        result | {"method": "simclr", "seed": 0},
        result | {"method": "byol", "seed": 0, "knn20": 0.5},
        result | {"method": "byol", "seed": 1, "knn20": 0.6, "health": "it does"},
        result | {"method": "byol", "seed": 2, "knn20": 0.9, "minutes": 0.5},
        result | {"method": "mae", "seed": 0, "encoder": "vit_mini"},
        {"method": "dino", "seed": 0, "fault": "see dino-0.log"},
    ]
    (tmp_path / "results").mkdir()
    for number, one in enumerate(results):
        (tmp_path / "results" / f"{number}.json").write_text(json.dumps(one))
    written({"vicreg": FOUND, "byol": FOUND})
    benchmark.write(tmp_path / "results", "CIFAR-10", cards.MEASURED)
    cards.measured.cache_clear()
    entries = cards.measured()
    assert list(entries) == ["simclr", "byol", "vicreg", "mae"]
    assert (entries["byol"]["seeds"], entries["byol"]["knn20"]) == (2, 0.55)
    assert entries["byol"]["health"] == "it does"
    assert entries["vicreg"] == FOUND
    assert entries["byol"]["speed"] == FOUND["speed"], "measured apart: it stays"
    assert "speed" not in entries["mae"]
    assert all(entry.keys() <= FOUND.keys() for entry in entries.values())
    assert cards.method_cards("mae")[0]["measured"].startswith("after 1 minute on CIFAR-10 (vit_mini, batch 256")
