"""What the cards of methods say was measured, from the results of methods_images.py.

python benchmarks/measured.py runs/methods --data "CIFAR-10, a fifth of the training part held out"

Reads every result in the folder (NAME-SEED.json) and writes src/untaught/methods/measured.yaml: means over seeds; a method without
a result keeps what it has. Of runs of several lengths the longest count, of several encoders the one with the best kNN. Speeds are
of speed_images.py, and stay as they are.
Then run: untaught methods --write docs/methods
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import yaml

from untaught.methods import METHODS
from untaught.report.method_cards import MEASURED

DIGITS = {"peak_mib": 0, "steps": 0}  # of all others 4
MEANS = (*DIGITS, "knn20", "untrained_knn20", "linear", "untrained_linear", "one_percent")


def gathered(folder: Path, data: str) -> dict[str, dict[str, Any]]:
    """Method -> its entry in measured.yaml."""
    runs: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        if result.get("method") in METHODS and "knn20" in result:
            runs.setdefault((result["method"], result["encoder"], result["minutes"]), []).append(result)
    means = {key: {field: statistics.mean(row[field] for row in rows) for field in MEANS} for key, rows in runs.items()}
    entries: dict[str, dict[str, Any]] = {}
    for key, mean in sorted(means.items(), key=lambda item: (item[0][2], item[1]["knn20"])):  # the last of a method is the one that counts
        (method, encoder, minutes), rows = key, runs[key]
        ill = [row["health"] for row in rows if row["health"] not in ("", "healthy")]
        entries[method] = {
            "data": data,
            "minutes": minutes,
            "seeds": len(rows),
            "encoder": encoder,
            "batch": rows[0]["batch"],
            **{field: round(mean[field], DIGITS.get(field, 4)) for field in MEANS},
            "health": ill[0] if ill else "healthy",
        }
    return entries


class _Lines(yaml.SafeDumper):
    """A field a line, lists within their line."""


_Lines.add_representer(list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True))


def save(entries: dict[str, dict[str, Any]], to: Path = MEASURED) -> None:
    """Writes entries by method, below the comment at the head of the file."""
    head = [line for line in to.read_text().splitlines() if line.startswith("#")]
    to.write_text("\n".join([*head, yaml.dump(entries, Dumper=_Lines, sort_keys=False, width=1000)]))


def write(folder: Path, data: str, to: Path = MEASURED) -> None:
    known, new = yaml.safe_load(to.read_text()) or {}, gathered(folder, data)
    speeds = {name: {"speed": entry["speed"]} for name, entry in known.items() if "speed" in entry}
    entries = {name: (new.get(name) or known[name]) | speeds.get(name, {}) for name in METHODS if name in known | new}
    save(entries, to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True, help="as it stands on the cards")
    asked = parser.parse_args()
    write(asked.folder, asked.data)


if __name__ == "__main__":
    main()
