"""Speaker verification on emodb: equal error rate on speakers whom pretraining did not hear.

python benchmarks/audio_verify.py OUT [--steps 400]

Two folds: half of the eight speakers are held out, and the encoder is pretrained without labels on the other half and on the training part
of fsdd. 10,000 pairs of one speaker and as many of two, at most; vectors are standardised by the half that was heard. Beside it the encoder
at random init and statistics of cepstral coefficients, on the same pairs. Voices differ by pitch and spectrum, so the views change neither
(`zoom`, `shift`, `stretch` and `mix` are 0); nothing is chosen by the score.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from audio import DATA, unpacked, write

import untaught as ut

HALVES = (("03", "09", "10", "12"), ("08", "11", "13", "14"))
VOICE = {f"global.{name}": 0 for name in ("zoom", "shift", "stretch", "mix")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    clips, words = unpacked(out, "emodb"), unpacked(out, "fsdd")
    with (out / "pairs.csv").open("w") as to:
        print("held out,features,metric,mean,low,high", file=to)
        spoken = list(csv.DictReader((DATA / "emodb" / "clips.csv").open()))
        digits = [row for row in csv.DictReader((DATA / "fsdd" / "recordings.csv").open()) if row["split"] == "train"]
        for held in HALVES:
            name = "-".join(held)
            heard = [{"file": str(clips / row["file"])} for row in spoken if row["speaker"] not in held]
            heard += [{"file": str(words / row["file"])} for row in digits]
            tested = [
                {"file": str(clips / row["file"]), "speaker": row["speaker"], "part": "test" if row["speaker"] in held else "train"}
                for row in spoken
            ]
            folder = out / f"without-{name}"
            if (folder / "encoder").exists():
                run = ut.Run(folder)
            else:
                options = {"steps": asked.steps, "batch_size": 32, "encoder.width": 16, "rate": 16_000, "evaluate_every": 0, **VOICE}
                run = ut.pretrain(write(heard, out / f"heard-{name}.csv"), "simclr", out=folder, resume=folder.exists(), **options)
            rows = ut.evaluate(run, write(tested, out / f"tested-{name}.csv"), label="speaker", split="part", task="verify", out=folder)
            for row in rows:
                print(name, *(row[key] for key in ("features", "metric", "mean", "low", "high")), sep=",", file=to, flush=True)


if __name__ == "__main__":
    main()
