"""wav2vec 2.0: a training step beside transformers' own, and whether runs on little data collapse.

python benchmarks/wav2vec2.py step [--rounds 5] [--seconds 1.0] [--rows 16]
python benchmarks/wav2vec2.py run OUT [--minutes 20] [--seeds 3] [--only 0] [--validate] [--knobs key=value ...]
python benchmarks/wav2vec2.py table OUT

step: forward, backward and update of the network `wav2vec2` (rate 16,000) by our loop, in its precision for this machine, and by
transformers' Wav2Vec2ForPreTraining with AdamW as in its example script (float32, and bf16 autocast), on the same waveforms and masks;
sampling of masks and negatives included. First both losses, in eval mode on the same masks, negatives and codes, in float32.
run: pretraining on fsdd (training recordings), emodb and the spoken captions of flickr8k_mini, all at 8 kHz, one seed after another; then a
linear probe of digits on fsdd, fitted on the training recordings and scored on the official test part, beside the same encoder at random
init. A line of OUT/runs.jsonl per seed; a call that was cut off resumes its run, finished seeds are skipped. --validate: takes 5 to 9 of
fsdd are scored, those from 10 on are fitted, so that nothing is chosen on the test part. table: the lines, and what the figure asks.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import random
import statistics
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import machine, table, take_turns
from torch import Tensor

DATA = Path(os.environ.get("UNTAUGHT_DATA", "../shared/data"))
LOOP = {"batch_size": 64, "spans.longest": 1.5, "evaluate_every": 0}
RATE = 16_000  # samples a second, of the measured step
LAST = 0.1  # share of the steps over which the final code perplexity is averaged
SHARE = 0.25  # of the codes, the least perplexity that the figure asks for

# ------------------------------------------------------------------------------------------------------------- step


def input_of(rows: int, seconds: float) -> tuple[dict[str, Tensor], Any]:
    """Waveforms and the masked views of them that both contestants read."""
    from untaught.core import Preprocessor
    from untaught.modalities.audio import AUDIO
    from untaught.pipeline.view_pipeline import Views, view_options

    own = {
        "rate": RATE,
        "seconds": seconds,
        "segment": 30.0,
        "input": "waveform",
        "mels": 64,
        "window": 400,
        "hop": 160,
        "ragged": ["wave"],
    }
    prep = Preprocessor(AUDIO, own, {"mean": [0.0], "std": [1.0]})
    views = Views(("spans",), prep, view_options(("spans",), prep, {"spans.scale": (1.0, 1.0)}), seed=0)
    return waves(rows, round(seconds * RATE)), views


def stepping(rows: int, seconds: float) -> dict[str, Callable[[], int]]:
    """A training step of each contestant, on the same waveforms."""
    from untaught.config.train_config import TrainConfig
    from untaught.training.step import TrainingStep

    batch, views = input_of(rows, seconds)
    method = ours(views, batch)
    views.fit_encoder(method.encoder)
    step, at = TrainingStep(method, TrainConfig(steps=1000, lr=5e-4, optimizer="adamw", batch_size=rows)), [0]

    def by_us() -> int:
        step(at[0], views(batch, at[0]), 0.5)
        at[0] += 1
        return 1

    x = views(batch, 0)[0].x
    return {"ours": by_us, **{name: theirs(method, x, bf16) for name, bf16 in (("transformers", False), ("transformers, bf16", True))}}


def waves(rows: int, length: int) -> dict[str, Tensor]:
    """Noise whose level changes 10 times a second, as 16-bit samples."""
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(rows, 10 * length // 16_000 + 1, generator=generator).repeat_interleave(1600, 1)[:, :length]
    wave = (8000 * level * torch.randn(rows, length, generator=generator)).clamp(-32768, 32767).short()
    return {"wave": wave, "wave_valid": torch.ones(rows, length, dtype=torch.bool), "index": torch.arange(rows)}


def ours(views: Any, batch: dict[str, Tensor], **knobs: Any) -> Any:
    from untaught.core import Facts
    from untaught.encoders.speech import wav2vec2
    from untaught.methods import Wav2Vec2

    torch.manual_seed(0)
    encoder = wav2vec2(rate=RATE)
    views.fit_encoder(encoder)
    return Wav2Vec2(encoder, Facts(rows=len(batch["index"]), views={"spans": views(batch, 0)[0]}), **knobs)


def twin(method: Any) -> Any:
    """transformers' Wav2Vec2ForPreTraining with the method's weights."""
    from transformers import Wav2Vec2ForPreTraining

    config = type(method.encoder.model.config)(**method.encoder.model.config.to_dict())
    groups, codes, each = method.vectors.shape
    config.update(
        {
            "num_codevectors_per_group": codes,
            "num_codevector_groups": groups,
            "codevector_dim": groups * each,
            "proj_codevector_dim": method.target.out_features,
            "num_negatives": method.negatives,
            "contrastive_logits_temperature": method.temperature,
            "diversity_loss_weight": method.weights[0],
            "feat_quantizer_dropout": 0.0,
            "mask_time_prob": 0.65,
            "mask_time_length": 10,
        }
    )
    config.apply_spec_augment = True
    model = Wav2Vec2ForPreTraining(config)
    with torch.no_grad():
        model.wav2vec2.load_state_dict({**method.encoder.model.state_dict(), "masked_spec_embed": method.mask})
        model.quantizer.weight_proj.load_state_dict(method.codes.linear.state_dict())
        model.quantizer.codevectors.copy_(method.vectors.flatten(0, 1)[None])
        model.project_hid.load_state_dict(method.predicted.state_dict())
        model.project_q.load_state_dict(method.target.state_dict())
    return model


def theirs(method: Any, x: Tensor, bf16: bool) -> Callable[[], int]:
    """A step as in transformers' examples/pytorch/speech-pretraining."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    model = twin(method).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    shape = len(x), (x.shape[1] - method.encoder.window) // method.encoder.patch + 1

    def step() -> int:
        mask = _compute_mask_indices(shape, 0.65, 10)
        negatives = torch.from_numpy(_sample_negative_indices(shape, method.negatives, mask))
        masked = torch.from_numpy(mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(x, mask_time_indices=masked, sampled_negative_indices=negatives).loss
        (loss / masked.sum()).backward()
        torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        optimizer.step()
        optimizer.zero_grad()
        return 1

    return step


def equal_losses(rows: int, seconds: float) -> tuple[float, float]:
    """Contrastive loss of a masked frame, ours and transformers', in eval mode (codes without noise)."""
    from untaught.ops.counter_rng import CounterRNG
    from untaught.ops.sampled_negatives import other_places

    batch, views = input_of(rows, seconds)
    method = ours(views, batch, distinct=True).eval()
    (view,) = views(batch, 0)
    assert view.mask is not None and view.meta is not None  # noqa: PT018
    at, count = view.meta["places"], view.mask.sum(1)
    rng = CounterRNG(0, 0, batch["index"], 0)
    places = at.gather(1, other_places(rng.uniform(at.shape[1], method.negatives), count).flatten(1)).unflatten(1, (-1, method.negatives))
    negatives = torch.zeros(*view.mask.shape, method.negatives, dtype=torch.long)
    negatives.scatter_(1, at.unsqueeze(2).expand_as(places), places)
    negatives += torch.arange(rows).view(-1, 1, 1) * view.mask.shape[1]
    with torch.no_grad():
        terms = method([view], 0.5)
        found = twin(method).eval()(view.x, mask_time_indices=view.mask, sampled_negative_indices=negatives)
    return float(terms["contrastive"]), float(found.contrastive_loss / view.mask.sum())


def step(rounds: int, rows: int, seconds: float) -> None:
    a, b = equal_losses(4, seconds)
    print(f"loss per masked frame: ours {a:.6f}, transformers {b:.6f}")
    times = take_turns(stepping(rows, seconds), rounds)
    own = times["ours"]
    lines = [
        [name, f"{1000 * each.median:.0f}", f"{statistics.median(x / y for x, y in zip(each.seconds, own.seconds, strict=True)):.2f}"]
        for name, each in times.items()
    ]
    print(f"{machine()}; {torch.get_num_threads()} thread(s), {rows} x {seconds:g} s\n")
    print(table(["", "ms a step (processor time)", "times ours"], lines))


# -------------------------------------------------------------------------------------------------------------- run


def prepared(out: Path) -> Path:
    """Puts the recordings into OUT/data -> a list of those that are trained on; OUT/data/fsdd.csv lists fsdd with digit and take."""
    import soundfile

    folder = out / "data"
    if not (folder / "pretrain.csv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        for what in ("fsdd/recordings.zip", "emodb/clips.zip"):
            with zipfile.ZipFile(DATA / what) as file:
                for name in file.namelist():
                    if name.endswith(".flac"):
                        (folder / Path(name).name).write_bytes(file.read(name))
                        names.append(Path(name).name)
        with tarfile.open(DATA / "flickr8k_mini/spoken.tar") as file:
            for member in file:
                held = file.extractfile(member)
                if held is not None:
                    samples, rate = soundfile.read(io.BytesIO(held.read()), dtype="int16")  # mp3 seeks slowly
                    soundfile.write(folder / f"{Path(member.name).stem}.flac", samples, rate)
                    names.append(f"{Path(member.name).stem}.flac")
        rows = list(csv.DictReader((DATA / "fsdd/recordings.csv").open()))
        test = {Path(row["file"]).name for row in rows if int(row["take"]) < 5}
        _write(folder / "fsdd.csv", [{"file": Path(row["file"]).name, "digit": row["digit"], "take": row["take"]} for row in rows])
        random.Random(0).shuffle(names)  # the settings are planned on the first ones
        _write(folder / "pretrain.csv", [{"file": name} for name in names if name not in test])
    return folder / "pretrain.csv"


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def probed(encoder: Any, model: Any, out: Path, validate: bool) -> float:
    """Accuracy of a linear probe of digits."""
    from untaught.evaluation.linear import LinearProbe
    from untaught.inference.embed import Embedder, vectors_of

    rows = list(csv.DictReader((out / "data/fsdd.csv").open()))
    take, digit = np.array([int(row["take"]) for row in rows]), np.array([int(row["digit"]) for row in rows])
    x = np.asarray(vectors_of(Embedder(model._replace(network=encoder), str(out / "data/fsdd.csv"))), np.float32)
    train, test = (take >= 10, (take >= 5) & (take < 10)) if validate else (take >= 5, take < 5)
    guess, _ = LinearProbe(x[train], x[test]).predict(np.arange(train.sum()), digit[train])
    return float((guess == digit[test]).mean())


def run(out: Path, seed: int, knobs: dict[str, Any], validate: bool) -> dict[str, Any]:
    """Pretrains with this seed, or goes on with it -> its line."""
    from untaught.commands.pretrain import pretrain
    from untaught.commands.request import PretrainArguments
    from untaught.evaluation.models import random_init_encoder
    from untaught.training.metrics import Metrics

    folder = out / f"seed-{seed}"
    given = {**LOOP, **knobs, "seed": seed}
    arguments = PretrainArguments(
        str(prepared(out)), "wav2vec2", encoder=given.pop("encoder", None), out=folder, modality="audio", knobs=given
    )
    model = pretrain(arguments, resume=folder.exists()).model
    assert model is not None
    rows = [row for row in Metrics.rows(folder / "metrics.jsonl") if "code_perplexity" in row]
    late = [row for row in rows if row["step"] > (1 - LAST) * rows[-1]["step"]] or rows[-1:]
    mean = lambda part, key: statistics.mean(row[key] for row in part)  # noqa: E731
    health = next((row["health"] for row in reversed(rows) if "health" in row), {})
    name, own = model.config["encoder"], model.config["encoder_knobs"]
    drawn = random_init_encoder(name, model.prep.encoder_arguments, own, seed)
    method = json.loads((folder / "heads" / "config.json").read_text()) if (folder / "heads" / "config.json").exists() else {}
    return {
        "seed": seed,
        "knobs": knobs,
        "steps": rows[-1]["step"],
        "loss": [rows[0]["loss"], mean(late, "loss")],
        "contrastive": [rows[0]["contrastive"], mean(late, "contrastive")],
        "accuracy": mean(late, "accuracy"),
        "code_perplexity": mean(late, "code_perplexity"),
        "codes": codes_of(folder),
        "verdict": health.get("verdict", ""),
        "because": health.get("because", ""),
        "linear": probed(model.network, model, out, validate),
        "linear_random_init": probed(drawn, model, out, validate),
        "part": "validation" if validate else "test",
        **({"heads": method.get("method")} if method else {}),
    }


def codes_of(folder: Path) -> int:
    """The number of codes of a run, of all groups."""
    import yaml

    knobs = yaml.safe_load((folder / "run.yaml").read_text())["resolved"]["method"]
    return knobs["groups"] * knobs["codes"]


def show(out: Path) -> None:
    rows = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    lines = [
        [
            *(str(row["seed"]), str(row["steps"])),
            f"{row['code_perplexity']:.0f} of {row['codes']} ({row['code_perplexity'] / row['codes']:.0%})",
            f"{row['contrastive'][0]:.2f} to {row['contrastive'][1]:.2f}",
            f"{row['accuracy']:.0%}",
            f"{row['linear']:.1%} ({row['linear_random_init']:.1%})",
            row["verdict"],
        ]
        for row in rows
    ]
    print(table(["seed", "steps", "code perplexity", "contrastive loss", "accuracy", "linear probe (random init)", "health"], lines))
    held = all(row["code_perplexity"] >= SHARE * row["codes"] and row["contrastive"][1] < row["contrastive"][0] for row in rows)
    print(f"\ncode perplexity at least {SHARE:.0%} and contrastive loss falling in every run: {'yes' if held else 'no'}; ", end="")
    print(f"probe above random init in {sum(row['linear'] > row['linear_random_init'] for row in rows)} of {len(rows)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "run", "table"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/wav2vec2"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", type=int, help="this seed only")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--knobs", nargs="*", default=[], help="key=value; steps= instead of --minutes")
    asked = parser.parse_args()
    if asked.what == "step":
        step(asked.rounds, asked.rows, asked.seconds)
        return
    if asked.what == "table":
        show(asked.out)
        return
    knobs = dict(knob.split("=", 1) for knob in asked.knobs)
    knobs |= {} if "steps" in knobs or "epochs" in knobs else {"minutes": str(asked.minutes)}
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "runs.jsonl"
    done = {json.loads(line)["seed"] for line in file.read_text().splitlines()} if file.exists() else set()
    for seed in [asked.only] if asked.only is not None else range(asked.seeds):
        if seed not in done:
            line = run(asked.out, seed, knobs, asked.validate)
            with file.open("a") as to:
                to.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
