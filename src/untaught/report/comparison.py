"""compare.json: reading it, what it says in sentences, and compare.html."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from untaught.core import Options, UserError
from untaught.evaluation.metrics import shown
from untaught.evaluation.selection import CRITERIA, DECISIVE
from untaught.report.advice import RECOMMENDERS
from untaught.report.charts import Curve, Point, number, thin
from untaught.report.listing import Column, drawn, table, write_page
from untaught.report.run_summary import RunSummary, gather
from untaught.storage.safe_load import check_kinds, read_json

FILE, PAGE = "compare.json", "compare.html"
SCHEMA = 1
NAMES = {"raw": "raw data", **RECOMMENDERS}
MEMORY = "in memory"  # recorded for data from Python
KINDS: dict[str, Any] = {
    **dict.fromkeys(("modality", "unit", "labels", "scored_on"), str),
    **dict.fromkeys(("left_out", "baselines", "knobs"), dict),
    **dict.fromkeys(("methods", "rounds", "test", "against"), list),
    **dict.fromkeys(("label", "split", "encoder", "winner"), str | None),
    "columns": dict | None,
    "data": str | list,
    "budget": int | float,
    "seconds": int | float,
}
ROUND: dict[str, Any] = {"each": int | float, "results": dict, "dropped": dict, "kept": list | None}


def found(folder: Path) -> bool:
    return (folder / FILE).exists()


def read(folder: Path) -> Options:
    """The content of FOLDER/compare.json. Raises UserError if it is not that of a comparison."""
    path = folder / FILE
    state = read_json(path, folder)
    where = f"{path} is not a comparison: its"
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or not state.keys() >= KINDS.keys():
        raise UserError(f"{path} is not a comparison of this version; choose another --out")
    check_kinds(state, KINDS, where)
    for one in state["methods"]:
        kinds = {"title": str, "method": str, "knobs": dict, "folder": str}
        if not isinstance(one, dict) or one.keys() != kinds.keys() or Path(str(one["folder"])).name != one["folder"]:
            raise UserError(f"{where} methods are damaged; start again with another --out")
        check_kinds(one, kinds, where)
    for one in state["rounds"]:
        if not isinstance(one, dict) or not one.keys() >= ROUND.keys():
            raise UserError(f"{where} rounds are damaged; start again with another --out")
        check_kinds(one, ROUND, where)
    return state


def plain_numbers(value: Any) -> Any:
    """The state for JSON: floats with seven digits, None where they are not finite."""
    if isinstance(value, dict):
        return {key: plain_numbers(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    return value


def line(title: str, result: Options) -> str:
    """A result in one line."""
    parts = []
    if "score" in result:
        metric = result["metric"]
        low, high = shown(metric, result["low"]), shown(metric, result["high"])
        parts.append(f"{result['probe'].replace('_', ' ')} {metric} {shown(metric, result['score'])} ({low} to {high})")
    parts += [f"{name} {number(result[key])}" for key, name in CRITERIA.items() if result.get(key) is not None]
    if "steps" in result:
        parts.append(f"after {result['steps']:,} steps, {result['seconds'] / 60:.1f} min")
    return f"{shown_name(title)}: {', '.join(parts)}"


def shown_name(features: str) -> str:
    """The name of a baseline for people: raw -> raw data, "random_init: conv_small" -> "random init: conv_small"."""
    name = features.removeprefix("against:")
    return NAMES.get(name) or name.replace("random_init", "random init", 1)


def regret(state: Options) -> float | None:
    """The share of the budget from which on the winner was first in every round: after it, other methods were trained in vain."""
    planned, since, spent = 0.0, None, 0.0
    for one in state["rounds"]:
        planned += one["each"] * len(one["results"] | one["dropped"])
    for one in state["rounds"]:
        spent += one["each"] * len(one["results"] | one["dropped"])
        first = (one.get("order") or [None])[0]
        since = (since if since is not None else spent) if first == state["winner"] and first is not None else None
    return since / planned if since is not None and planned else None


def sentences(state: Options) -> list[str]:
    """What the comparison found: first of all where a baseline is better."""
    winner = state["winner"]
    if winner is None:
        return ["not finished: no method has been chosen yet"]
    last = state["rounds"][-1]
    best, order = last["results"][winner], last["order"]
    said = []
    if "score" in best:
        metric = best["metric"]
        text = lambda one: shown(metric, one["score"])  # noqa: E731
        above = [
            f"{shown_name(name)} ({text(one)})" for name, one in state["baselines"].items() if one.get("score", -math.inf) >= best["score"]
        ]
        if above:
            said.append(f"no method is better than {' and '.join(above)}; the best is {winner} with {text(best)}")
        probe, span = best["probe"].replace("_", " "), f"{shown(metric, best['low'])} to {shown(metric, best['high'])}"
        said.append(f"{winner} is first: {probe} {metric} {text(best)} ({span})")
        close = [f"{name} ({text(last['results'][name])})" for name in order[1:] if last["results"][name]["high"] >= best["low"]]
        if close:
            said.append(f"{' and '.join(close)} can't be told apart from it by these validation samples: the intervals overlap")
        if tested := [row for row in state["test"] if row["metric"] == metric]:
            said.append("on the test part: " + ", ".join(f"{shown_name(row['features'])} {shown(metric, row['mean'])}" for row in tested))
    else:
        agreement = last.get("agreement")
        if len(order) > 1 and agreement is not None:
            decided = "" if agreement >= DECISIVE else "not decisive: "
            said.append(
                f"{decided}the mean rank correlation of RankMe, alpha-ReQ and pretext loss is {agreement:.2f} in the last round "
                f"({len(order)} methods); {winner} is first by mean rank"
            )
        else:
            said.append(f"{winner} is the only method in the last round")
        said.append("without labels no score says what an encoder is worth; a few labels decide better")
    if (share := regret(state)) is not None and len(state["methods"]) > 1:
        since = f"from {share:.0%} of the budget on" if share < 1 else "only in the last round"
        said.append(f"{winner} was first {since}")
    return said


def write(folder: Path) -> Path:
    """Writes FOLDER/compare.html and returns its path."""
    state = read(folder)
    unit = state["unit"]
    place = state["data"] if isinstance(state["data"], str) else ", ".join(state["data"])
    subtitle = f"{len(state['methods'])} methods · {place} · {unit}={number(state['budget'])} in {len(state['rounds'])} rounds"
    notes = [f"{title} was left out: {why}" for title, why in state["left_out"].items()]
    notes += [
        f"{title} was dropped in round {i}: {why}" for i, one in enumerate(state["rounds"], 1) for title, why in one["dropped"].items()
    ]
    sections = [
        {"title": "The table that decided", "note": f"Scored on {state['scored_on']}.", "table": table(_columns(state), _rows(state))},
        {"title": "Curves", "note": "", "plots": _plots(folder, state)},
    ]
    return write_page(folder / PAGE, f"{folder.resolve().name}: comparison", subtitle, sentences(state), notes, sections)


def _columns(state: Options) -> list[Column]:
    scored = any("score" in one for one in state["baselines"].values()) or any(
        "score" in r for one in state["rounds"] for r in one["results"].values()
    )
    columns = [Column("method", "method"), Column("encoder", "encoder"), Column("steps", "steps"), Column("minutes", "minutes")]
    rounds = [Column(f"round{i}", f"round {i}") for i in range(1, len(state["rounds"]) + 1)] if scored else []
    criteria = [Column(key, name) for key, name in CRITERIA.items()]
    return [*columns, *rounds, *([Column("interval", "95% interval")] if scored else []), *criteria, Column("fate", "")]


def _rows(state: Options) -> list[Options]:
    """A row for each method, those that came furthest first, then the baselines."""
    rows = []
    for one in state["methods"]:
        title = one["title"]
        results = [found["results"].get(title) for found in state["rounds"]]
        reached = [result for result in results if result]
        last = reached[-1] if reached else {}
        fate = next((f"dropped: {found['dropped'][title]}" for found in state["rounds"] if title in found["dropped"]), "")
        if not fate:
            fate = "first" if title == state["winner"] else f"dropped after round {len(reached)}"
        row = {"method": title, "encoder": last.get("encoder", ""), "fate": fate, **_row(last), "reached": len(reached)}
        row |= {f"round{i}": _shown(result, "score") for i, result in enumerate(results, 1) if result}
        rows.append(row | {"steps": last.get("steps"), "minutes": last["seconds"] / 60 if last else None})
    key = lambda row: (row["method"] != state["winner"], -row["reached"], -(row["plain"] if row["plain"] is not None else -math.inf))  # noqa: E731
    rows.sort(key=key)
    for name, found in state["baselines"].items():
        scores = {f"round{i}": _shown(found, "score") for i in range(1, len(state["rounds"]) + 1)}
        rows.append({"method": shown_name(name), "fate": "baseline", **scores, **_row(found)})
    return rows


def _row(result: Options) -> Options:
    interval = f"{_shown(result, 'low')} to {_shown(result, 'high')}" if "score" in result else ""
    return {"interval": interval, "plain": result.get("score"), **{key: result.get(key) for key in CRITERIA}}


def _shown(result: Options, key: str) -> str:
    return shown(result["metric"], result[key]) if key in result else ""


def _plots(folder: Path, state: Options) -> list[Any]:
    """Score by training time, and kNN and loss during training."""
    unit = state["unit"]
    colours = {one["title"]: f"c{i % 12}" for i, one in enumerate(state["methods"])}
    scores: dict[str, list[Point]] = {}
    length, metric = 0.0, "accuracy"
    for one in state["rounds"]:
        length += one["each"]
        for title, result in one["results"].items():
            if "score" in result:
                metric = result["metric"]
                scores.setdefault(title, []).append(Point(length, result["score"], result["low"], result["high"]))
    curves = [Curve(title, colours[title], points) for title, points in scores.items() if title in colours]
    ends = sorted({point.x for points in scores.values() for point in points})
    flat = [
        Curve(shown_name(name), "base", [Point(x, one["score"]) for x in ends])
        for name, one in state["baselines"].items()
        if "score" in one and ends
    ]
    plots = [drawn("Score by training of each method, with baselines", [*curves, *flat], unit, metric)]
    summaries: dict[str, RunSummary] = {}
    for one in state["methods"]:
        try:
            summaries[one["title"]] = gather(folder / one["folder"], drawn=False)
        except UserError:  # never begun, or removed
            continue
    names = {title: next((key for row in own.rows for key in row if key.startswith("knn20")), "") for title, own in summaries.items()}
    seen = {title: own.series(names[title]) for title, own in summaries.items() if names[title]}
    watched = [Curve(title, colours[title], thin(points)) for title, points in seen.items() if len(points) > 1]
    share = "" if any(name.endswith("_r2") for name in names.values()) else "accuracy"
    plots.append(drawn("kNN during training (on a held-out share of the training part)", watched, "step", share))
    plots += [
        drawn(f"Loss of {title}", [Curve(title, colours[title], thin(own.series("loss")))], "step") for title, own in summaries.items()
    ]
    return [plot for plot in plots if plot]
