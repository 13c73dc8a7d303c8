"""Cards of methods and encoders: knobs from headers and signatures, and the methods' measured scores."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import untaught.methods
from untaught.config.help import meanings_of
from untaught.config.overrides import knobs_of
from untaught.config.registry import OURS, encoder_factory, method_named, method_table, modality_named
from untaught.config.train_config import TrainConfig
from untaught.console import warn
from untaught.core import Method, Options, UserError
from untaught.encoders import ENCODERS
from untaught.modalities import MODALITIES
from untaught.storage.atomic import write_text
from untaught.storage.ownership import check_replaceable, is_ours
from untaught.storage.safe_load import read_yaml

MEASURED = Path(untaught.methods.__file__).with_name("measured.yaml")  # written by benchmarks/measured.py
VENUES = {"CVPR", "ECCV", "ICCV", "ICLR", "ICML", "JMLR", "NeurIPS", "Science", "TMLR"}  # may follow the authors
PROBES = {"knn20": "kNN", "linear": "linear probe", "recall10": "text to image recall@10"}
GAIN = 0.01  # accuracy above random init, below which a method counts as having learned nothing

INPUT = {"channels", "size", "vocabulary", "length", "special", "rate"}  # encoder arguments that come from the data


def method_cards(name: str | None = None) -> list[Options]:
    """One card per method, or the named one: name, family, paper, views, needs, cost, score, package, link; for a single method
    also an example, its measurements, knobs and header. Missing measurements are blank.

    Warns about a package whose method can't be used, and skips it.
    """
    cards, table = [], method_table()
    for method in [name] if name else sorted(table):
        try:
            cls = method_named(method, table)
        except UserError as error:
            if name:
                raise
            warn(str(error))
            continue
        cards.append(_card(method, cls, table[method][1], whole=name is not None))
    return cards


def _card(name: str, cls: type[Method], package: str, whole: bool) -> Options:
    header = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
    found = measured().get(name, {}) if package == OURS else {}
    card: Options = {
        "name": name,
        "family": cls.__module__.split(".")[-2] if package == OURS else "-",
        "paper": citation(header),
        "views": _counted(cls.views),
        "needs": _needs(cls),
        "cost": f"{found['speed']['cost'][0]:.2g}" if "speed" in found else "",
        "score": _score(found),
        "data": found.get("data", "").partition(",")[0],
        "package": package,
        "link": " ".join(re.findall(r"https?://[^\s,]+", header.split("\n\n")[0])),
    }
    if whole:
        meanings = meanings_of(cls)
        knobs = {key: {"default": default, "meaning": meanings.get(key, "")} for key, (_, default) in knobs_of(cls).items()}
        card |= {"example": _example(name, cls, knobs), "measured": judged(found), "knobs": knobs, "settings": _settings(cls)}
        card |= {"photographs": _joined(cls.view_presets.get("photo", {})), "header": "\n" + header}
    return card


def _score(found: Options) -> str:
    """The first of its scores, and the gain over random init; "" without measurements."""
    probe = next((probe for probe in PROBES if probe in found), None)
    if probe is None:
        return ""
    what = "" if probe == "knn20" else f", {PROBES[probe]}"
    return f"{found[probe]:.1%} ({100 * (found[probe] - found[f'untrained_{probe}']):+.1f}), {found['minutes']:g} min{what}"


def _settings(cls: type[Method]) -> Options:
    """Each setting that the paper's and the short runs' defaults name: {key: {"paper": value, "short": value}}."""
    usual = {key: default for table in (knobs_of(TrainConfig), knobs_of(cls)) for key, (_, default) in table.items()} | {"views": cls.views}
    value = lambda preset, key: _written(preset.get(key, usual.get(key, "the default")))  # noqa: E731
    found = {key: {"paper": value(cls.paper, key), "short": value(cls.short, key)} for key in dict.fromkeys([*cls.paper, *cls.short])}
    if "views" in found:
        found["views"] = {"paper": _counted(cls.paper["views"]), "short": _counted(cls.short.get("views", cls.views))}
    return found


def _joined(options: Options) -> str:
    return " ".join(f"{key}={_written(value)}" for key, value in options.items())


def _needs(cls: type[Method]) -> str:
    """What its encoders must offer, by role where there are several."""
    said = {name: ", ".join(sorted(role.needs)) or "any encoder" for name, role in cls.roles().items()}
    return "; ".join(f"{name}: {needs}" for name, needs in said.items()) if len(said) > 1 else next(iter(said.values()))


def citation(header: str) -> str:
    """ "Chen et al. 2020" for a header that begins "SimCLR. Chen, Kornblith, Norouzi, Hinton, ICML 2020. https://..."; else ""."""
    found = re.match(r"[^.]*\. ([^.]*(?: et al\.)?[^.]*?) (\d{4})\b", header)
    if not found:
        return ""
    authors = [part for part in found[1].split(", ") if part not in VENUES]
    if len(authors) > 2 or "et al." in found[1]:
        return f"{authors[0]} et al. {found[2]}"
    return f"{', '.join(authors)} {found[2]}"


def _counted(names: tuple[str, ...]) -> str:
    """global, global2, 6 local."""
    runs = [(name, len(list(many))) for name, many in groupby(names)]
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in runs)


def _example(name: str, cls: type[Method], knobs: Options) -> str:
    """A runnable command, with the first knob that has a default, or a teacher; a term that does not train alone is beside dinov2."""
    given = {key: "timm/resnet18" if key == "teachers" else _written(knob["default"]) for key, knob in knobs.items()}
    knob = next((f" {key}={value}" for key, value in given.items() if value != "none"), "")
    name = name if cls.alone else f"dinov2+{name}:0.5"
    kinds = [modality for modality in map(modality_named, MODALITIES) if set(cls.views) <= set(modality.views)]
    data = f"{kinds[0].noun}/ --modality {kinds[0].name}" if kinds and kinds[0].name != next(iter(MODALITIES)) else "photos/"
    return f"untaught pretrain {data} --method {name} minutes=60{knob}"


def _written(value: Any) -> str:
    """The value as written on the command line."""
    if isinstance(value, tuple | list):
        return ",".join(map(_written, value))
    return str(value).lower() if isinstance(value, bool | None) else str(value)


@cache
def measured() -> dict[str, Options]:
    """Method -> results of a run: data, minutes, seeds, encoder, batch, steps, peak_mib, scores of PROBES and untrained_knn20 ...,
    one_percent, health; and its speed over several rounds on an idle machine: rounds, pictures_per_second and cost
    (time per image relative to simclr with the same encoder and batch), each as (median, lowest, highest)."""
    return read_yaml(MEASURED, None) or {}


def judged(found: Options) -> str:
    """The results in a sentence; "" without measurements."""
    if not found:
        return ""
    length = f"{found['minutes']:g} minute{'s' if found['minutes'] != 1 else ''}"
    how = [found["encoder"], *(f"{key} {found[key]}" for key in ("batch", "steps", "seeds") if key in found)]
    results = []
    for probe, label in (*PROBES.items(), ("one_percent", "with 1% of the labels")):
        if probe in found:
            baseline = f" (random init {found[f'untrained_{probe}']:.1%})" if f"untrained_{probe}" in found else ""
            results.append(f"{label} {found[probe]:.1%}{baseline}")
    gains = [found[probe] - found[f"untrained_{probe}"] for probe in PROBES if probe in found]
    parts = [f"after {length} on {found['data']} ({', '.join(how)}): {', '.join(results)}"]
    if max(gains) < GAIN:
        parts.append("no better than random init: it needs more time or more data")
    if found.get("health", "healthy") != "healthy":
        parts.append(f"collapsing because {found['health']}")
    if "peak_mib" in found:
        parts.append(f"peak memory {found['peak_mib']:.0f} MiB")
    if speed := found.get("speed"):
        cost, rate = ("{:.4g} ({:.4g} to {:.4g})".format(*speed[key]) for key in ("cost", "pictures_per_second"))
        parts.append(f"time per image {cost} times simclr's, {rate} images/s (median and range of {speed['rounds']} rounds)")
    return "; ".join(parts)


# ------------------------------------------------------------------------------------------------------------- pages


SETTINGS = (
    "Runs of 100 epochs or more take the paper's settings, others those for short runs; any of them can be given by itself. `encoder.` is\n"
    "for vision transformers.\n\n"
)


def write_pages(folder: Path) -> int:
    """Writes a page for each of our methods, folder/NAME.md, and an index, folder/README.md -> the number of pages. Pages of methods that
    no longer exist are deleted.

    Raises UserError, before anything is written, if a file that is not ours is in the way.
    """
    pages = {"README.md": index_page()} | {
        f"{name}.md": method_page(name) for name, (_, package) in method_table().items() if package == OURS
    }
    for name in pages:
        check_replaceable(folder / name, "choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}; choose another folder") from error
    for old in folder.glob("*.md"):
        if old.name not in pages and is_ours(old):
            old.unlink()
    for name, text in pages.items():
        write_text(folder / name, text)
    return len(pages) - 1


def index_page() -> str:
    """The table of our methods."""
    rows = [
        [f"[`{card['name']}`]({card['name']}.md)", card["family"], f"[{card['paper']}]({card['link'].split()[0]})", card["views"]]
        + [card[key] for key in ("needs", "cost", "score", "data")]
        for card in method_cards()
        if card["package"] == OURS
    ]
    rows.sort(key=lambda row: (row[1], row[0]))
    return (
        "# Methods\n\nMade by `untaught methods --write docs/methods`, as are the methods' pages. Score: kNN (k = 20) unless said\n"
        "otherwise, and its gain over random init, after the given minutes of training; the pages say with which encoder, on which\n"
        "part of the data, and on how much of a machine. Cost: time per image relative to simclr with the same encoder.\n"
        "Missing measurements are blank.\n\n"
        + _table(["method", "family", "paper", "views", "needs", "cost", "score", "data"], rows)
        + "\nCombining methods, and writing your own: [How to write a method](../methods.md).\n"
    )


def method_page(name: str) -> str:
    """One method's card in Markdown."""
    (card,) = method_cards(name)
    title, _, body = card["header"].strip().partition("\n\n")
    rows = [[f"`{key}`", f"`{_written(knob['default'])}`", knob["meaning"]] for key, knob in card["knobs"].items()]
    settings = [[f"`{key}`", *(f"`{value}`" for value in values.values())] for key, values in card["settings"].items()]
    return (
        f"# {name}\n\n{title}\n\n```text\n{body}\n```\n\n"
        f"Family: {card['family']}. Views: {card['views']}. Needs: {card['needs']}.\n\n```bash\n{card['example']}\n```\n\n"
        + (_table(["knob", "default", "meaning"], rows) + "\n" if rows else "")
        + (SETTINGS + _table(["setting", "`defaults=paper`", "`defaults=short`"], settings) + "\n" if settings else "")
        + (f"Views of photographs (`preset=photo`): `{card['photographs']}`.\n\n" if card["photographs"] else "")
        + f"Measured: {card['measured'] or 'not yet'}.\n"
    )


def families() -> str:
    """The README's table of our methods by family."""
    found: dict[str, list[str]] = {}
    for card in method_cards():
        if card["package"] == OURS:
            found.setdefault(card["family"], []).append(f"[`{card['name']}`](docs/methods/{card['name']}.md)")
    return _table(["family", "methods"], [[family, " ".join(names)] for family, names in sorted(found.items())])


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("|  |", "| |").replace("|  |", "| |")


# ---------------------------------------------------------------------------------------------------------- encoders


def encoder_cards(name: str | None = None) -> list[Options]:
    """One card per encoder: name and description; for the named one also its knobs."""
    if name is None:
        return [{"name": encoder, "what": what} for encoder, (_, what) in ENCODERS.items()]
    factory, leading = encoder_factory(name)
    if name.startswith("timm/") and name not in ENCODERS:
        from untaught.encoders import timm

        if not timm.is_known(*leading):
            raise timm.unknown(*leading)
    known = {key: default for key, (_, default) in knobs_of(factory).items() if key not in INPUT}
    what = ENCODERS[name if name in ENCODERS else f"{name.split('/')[0]}/NAME"][1]
    return [{"name": name, "what": what, "knobs": {f"encoder.{key}": default for key, default in known.items()}}]
