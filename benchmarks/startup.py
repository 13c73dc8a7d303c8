"""How long `import untaught` and `untaught --help` take, each in a fresh process.

python benchmarks/startup.py [--rounds 9]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from rounds import machine, table, take_turns

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import untaught": ["-c", "import untaught"],
    "untaught --help": ["-m", "untaught.cli", "--help"],
    "import torch, for comparison": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()

    def start(arguments: list[str]) -> int:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return 1

    print(machine())
    times = take_turns(
        {name: lambda arguments=arguments: start(arguments) for name, arguments in COMMANDS.items()}, asked.rounds, time.perf_counter
    )
    print(table(["", "median, s", "best, s"], [[name, f"{t.median:.2f}", f"{t.best:.2f}"] for name, t in times.items()]))


if __name__ == "__main__":
    main()
