"""Tables: few labels against logistic regression and gradient boosting, codes beside PCA's, SCARF's speed, memory of a large table.

python benchmarks/tables.py few DATA/tabular [--tables adult,letter_recognition] [--out few.json]
python benchmarks/tables.py matrix few.json                 the win matrix of what `few` has measured
python benchmarks/tables.py codes DATA/tabular [--tables letter_recognition] [--out codes.json] [--steps 500]
python benchmarks/tables.py transfer DATA/tabular [--tables adult] [--out transfer.json] [--steps 300]
python benchmarks/tables.py speed DATA/tabular/adult.csv.gz
python benchmarks/tables.py published DATA/tabular/adult.csv.gz [--batch 128]    needs `pip install ts3l "pytorch_lightning<2.6"`
python benchmarks/tables.py scale FOLDER [--rows 1000000]   writes a parquet file of 50 columns there, and pretrains on it

few: labels are 5, 10 and 50 a class (for numbers 50, 100 and 500 in all), in 5 draws; at most 8,000 training and 3,000 test rows. Which
system pretrains the encoder, and whether its vectors are used alone or beside the row, is chosen on a fifth of the training rows
with 10 labels a class; the test rows are used once. Scores are means over the seeds of pretraining.
codes: the autoencoder's codes of 2 and 8 numbers beside as many principal components of the same standardised rows (an indicator per
category): the share of the variance of test rows that is lost, and probes on the codes with all labels. Which encoder is used is
chosen on a fifth of the training rows, which it has not seen.
transfer: an ft_transformer trained on two thirds of the columns and 80% of the training rows (without labels; with them), and fine-tuned
with few labels of the other 20% on all columns (`untaught finetune RUN OTHER_TABLE`), beside the same network from scratch with the same
budget, and classical models on the raw rows of all columns. The labels upstream are of the same kind: boosting that learns from them on
the shared columns alone is given too.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from untaught.commands.pretrain import pretrain
from untaught.commands.request import PretrainArguments
from untaught.data.sources import open_source
from untaught.evaluation.boosting import boosted
from untaught.evaluation.interval import RESAMPLES, Measured
from untaught.evaluation.linear import LinearProbe
from untaught.evaluation.low_label import draw
from untaught.evaluation.models import random_init_encoder
from untaught.evaluation.ridge import RidgeProbe
from untaught.pipeline.dataset import batch_of
from untaught.pipeline.heads import load_heads
from untaught.sklearn import SelfSupervisedEncoder

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "scarf, 60%": ("scarf", {}),
    "scarf, 30%": ("scarf", {"global.level": 0.3}),
    "vime": ("vime", {}),
}
DRAWS, ROWS, TEST, WIDTH = 5, 8000, 3000, 256
REGRESSION = {"california_housing"}
SETTINGS = {True: (50, 100, 500), False: (5, 10, 50)}


def read(path: Path) -> tuple[Any, np.ndarray, Any, np.ndarray]:
    """Training rows and targets, test rows and targets."""
    table: Any = pd.read_csv(path, na_values="?")
    target = table.columns[-2]
    random = np.random.default_rng(0)
    found: list[Any] = []
    for part, most in (("train", ROWS), ("test", TEST)):
        rows = table[table["split"] == part]
        rows = rows.iloc[np.sort(random.permutation(len(rows))[:most])]
        found += [rows.drop(columns=[target, "split"]).reset_index(drop=True), rows[target].to_numpy()]
    return found[0], found[1], found[2], found[3]


def labelled(count: int, targets: np.ndarray, seed: int, numbers: bool) -> np.ndarray:
    """Rows of a draw."""
    if numbers:
        return np.sort(np.random.default_rng(seed).permutation(len(targets))[:count])
    return draw(f"{count}/class", targets, seed)


def probe(train: np.ndarray, test: np.ndarray, targets: np.ndarray, count: int, numbers: bool, draws: int = DRAWS) -> np.ndarray:
    """Predictions (draws, M) of a linear probe, its penalty chosen on the first draw."""
    fitted: Any = (RidgeProbe if numbers else LinearProbe)(train.astype(np.float32), test.astype(np.float32))
    found, penalty = [], None
    for seed in range(draws):
        rows = labelled(count, targets, seed, numbers)
        guess, penalty = fitted.predict(rows, targets[rows], seed, penalty)
        found.append(guess)
    return np.stack(found)


def trees(train: np.ndarray, test: np.ndarray, targets: np.ndarray, count: int, numbers: bool) -> np.ndarray:
    drawn = [labelled(count, targets, seed, numbers) for seed in range(DRAWS)]
    return np.stack([boosted(train[rows], targets[rows], test, "numbers" if numbers else "classes") for rows in drawn])


def quality(guess: np.ndarray, truth: np.ndarray, numbers: bool) -> np.ndarray:
    """(draws, M): the share of each test row in accuracy, or in R2."""
    if not numbers:
        return (guess == truth).astype(float)
    return 1 - np.square(guess - truth) / np.square(truth - truth.mean()).mean()


def measured(values: np.ndarray) -> Measured:
    """values (draws, M), whose mean over M is the score."""
    random = np.random.default_rng(0)
    again = [values[:, random.integers(0, values.shape[1], values.shape[1])].mean() for _ in range(RESAMPLES)]
    return Measured(values.mean(1), np.array(again))


def few(folder: Path, names: list[str], out: Path, steps: int, seeds: int) -> None:
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        if name in found:
            continue
        began, numbers = time.perf_counter(), name in REGRESSION
        x, y, test, truth = read(folder / f"{name}.csv.gz")
        y, truth = (a.astype(float) if numbers else a.astype(str) for a in (y, truth))
        held = np.random.default_rng(1).random(len(x)) < 0.2
        encoders: dict[str, list[Any]] = {}
        for system, (method, knobs) in SYSTEMS.items():
            each = [SelfSupervisedEncoder(method, steps=steps, knobs=knobs, random_state=s, passthrough=True) for s in range(seeds)]
            encoders[system] = [encoder.fit(x) for encoder in each]
        chosen: dict[tuple[str, str], float] = {}
        for system, fitted in encoders.items():
            for both in (encoder.transform(x) for encoder in fitted):
                for use, shown in {"vectors": both[:, -WIDTH:], "row and vectors": both}.items():
                    guess = probe(shown[~held], shown[held], y[~held], SETTINGS[numbers][1], numbers)
                    chosen[system, use] = chosen.get((system, use), 0.0) + quality(guess, y[held], numbers).mean() / seeds
        (system, use), validated = max(chosen.items(), key=lambda one: one[1])
        vectors: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"ours": [], "random init": []}
        for seed, encoder in enumerate(encoders[system]):
            train, rows = encoder.transform(x), encoder.transform(test)
            vectors["ours"].append((train[:, -WIDTH:], rows[:, -WIDTH:]) if use == "vectors" else (train, rows))
            _, prep, view = encoder._open()
            encoder._opened = random_init_encoder("mlp_table", prep.encoder_arguments, {}, seed).double(), prep, view
            vectors["random init"].append((encoder.transform(x)[:, -WIDTH:], encoder.transform(test)[:, -WIDTH:]))
        raw, raw_test = (encoders[system][0].transform(part)[:, :-WIDTH] for part in (x, test))
        scores: dict[str, Any] = {}
        for count in SETTINGS[numbers]:
            known = {
                who: np.mean([quality(probe(a, b, y, count, numbers), truth, numbers) for a, b in each], 0)
                for who, each in {**vectors, "linear": [(raw, raw_test)]}.items()
            }
            known["boosting"] = quality(trees(raw, raw_test, y, count, numbers), truth, numbers)
            scores[str(count)] = {
                "scores": {who: [m.mean, *m.interval] for who, values in known.items() if (m := measured(values))},
                "ours minus": {
                    who: [m.mean, *m.interval] for who, values in known.items() if who != "ours" and (m := measured(known["ours"] - values))
                },
            }
            print(name, count, {who: round(score[0], 3) for who, score in scores[str(count)]["scores"].items()}, flush=True)
        found[name] = {
            "chosen": f"{system}, {use}",
            "validated": {f"{s}, {u}": round(float(v), 4) for (s, u), v in chosen.items()},
            "rows": scores,
            "seeds": seeds,
            "seconds": round(time.perf_counter() - began),
        }
        out.write_text(json.dumps(found, indent=1))
        print(name, found[name]["chosen"], round(float(validated), 3), found[name]["seconds"], "s", flush=True)


def matrix(out: Path) -> None:
    """Wins, ties and losses of ours, by the 95% interval of the paired difference."""
    found = json.loads(out.read_text())
    for name, table in found.items():
        print(f"\n{name} ({table['chosen']})")
        for count, row in table["rows"].items():
            print(f"  {count:>3}  " + "  ".join(f"{who} {m:.3f} [{a:.3f}, {b:.3f}]" for who, (m, a, b) in row["scores"].items()))
    print()
    for who in ("linear", "boosting", "random init"):
        for place in range(3):
            signs = []
            for table in found.values():
                _, low, high = list(table["rows"].values())[place]["ours minus"][who]
                signs.append(1 if low > 0 else -1 if high < 0 else 0)
            print(f"against {who}, {SETTINGS[False][place]} labels: {signs.count(1)} won, {signs.count(0)} tied, {signs.count(-1)} lost")


# ----------------------------------------------------------------------------------------------------------------- codes

CODED = ("letter_recognition", "wall_following_robot_24", "adult")
WIDTHS = (2, 8)
AUTOENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp_table": ("mlp_table", {}),
    "resnet_table": ("resnet_table", {}),
}


class Restoring:
    """An autoencoder trained on rows x without labels: rows as it reads them, their codes and reconstructions."""

    def __init__(self, x: pd.DataFrame, width: int, encoder: str, knobs: dict[str, Any], steps: int) -> None:
        loop = {"steps": steps, "batch_size": 256, "health_every": 0, "evaluate_every": 0, "defaults": "short"}
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "run"
            chosen = {**loop, "width": width, "scale": "standard", **knobs}
            pretrain(PretrainArguments(x, "autoencoder", encoder, place, "table", knobs=chosen))
            self.heads = load_heads(place)
        self.method: Any = None

    @torch.no_grad()
    def __call__(self, x: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> rows (N,D), codes (N,width), reconstructions (N,D)."""
        prep = self.heads.encoder.prep
        source = open_source(x, prep.modality)
        batch, _ = batch_of([record for part in source.parts.values() for record in part], prep)
        views = self.heads.views(prep, 0)
        self.method = self.method or self.heads.build(batch, views)
        (view,) = views(batch, 0)
        return view.x.numpy(), self.method.code(self.method.encoder(view)).numpy(), self.method.restore(view).numpy()


def lost(rows: np.ndarray, restored: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(1,M): each test row's share of the squared error, relative to the distance from the mean of the training rows."""
    return (np.square(rows - restored).sum(1) / np.square(rows - mean).sum(1).mean())[None]


def probed(train: np.ndarray, test: np.ndarray, y: np.ndarray, truth: np.ndarray, numbers: bool) -> dict[str, np.ndarray]:
    """Quality (1,M) of a linear probe and of 20 nearest neighbours on standardised codes, with all labels."""
    mean, std = train.mean(0), train.std(0) + 1e-9
    train, test = ((part - mean) / std for part in (train, test))
    near: Any = (KNeighborsRegressor if numbers else KNeighborsClassifier)(20).fit(train, y)
    linear: Any = (RidgeProbe if numbers else LinearProbe)(train.astype(np.float32), test.astype(np.float32))
    guesses = {"linear": linear.predict(np.arange(len(y)), y, 0, None)[0], "knn": near.predict(test)}
    return {name: quality(guess[None], truth, numbers) for name, guess in guesses.items()}


def codes(folder: Path, names: list[str], out: Path, steps: int) -> None:
    from sklearn.decomposition import PCA

    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        numbers = name in REGRESSION
        x, y, test, truth = read(folder / f"{name}.csv.gz")
        y, truth = (a.astype(float) if numbers else a.astype(str) for a in (y, truth))
        held = np.random.default_rng(1).random(len(x)) < 0.2
        for width in WIDTHS:
            if f"{name}, {width}" in found:
                continue
            began = time.perf_counter()
            chosen = {}
            for system, (encoder, knobs) in AUTOENCODERS.items():
                model = Restoring(x[~held], width, encoder, knobs, steps)
                rows, _, restored = model(x[held])
                chosen[system] = lost(rows, restored, rows.mean(0)).mean()
            system = min(chosen, key=lambda one: chosen[one])
            model = Restoring(x, width, *AUTOENCODERS[system], steps)
            (train, own_train, _), (rows, own, restored) = model(x), model(test)
            linear = PCA(width).fit(train)
            principal = linear.transform(train), linear.transform(rows)
            mean = train.mean(0)
            losses = {"autoencoder": lost(rows, restored, mean), "pca": lost(rows, linear.inverse_transform(principal[1]), mean)}
            probes = {"autoencoder": probed(own_train, own, y, truth, numbers), "pca": probed(*principal, y, truth, numbers)}
            pairs = {"lost": losses} | {probe: {who: probes[who][probe] for who in probes} for probe in ("linear", "knn")}
            found[f"{name}, {width}"] = {
                "chosen": system,
                "validated": {one: round(float(value), 4) for one, value in chosen.items()},
                **{
                    what: {
                        **{who: [(m := measured(values)).mean, *m.interval] for who, values in each.items()},
                        "difference": [(m := measured(each["autoencoder"] - each["pca"])).mean, *m.interval],
                    }
                    for what, each in pairs.items()
                },
                "seconds": round(time.perf_counter() - began),
            }
            out.write_text(json.dumps(found, indent=1))
            print(name, width, {what: [round(one[0], 3) for one in found[f"{name}, {width}"][what].values()] for what in pairs}, flush=True)


# -------------------------------------------------------------------------------------------------------------- transfer

TRANSFERRED = ("adult", "covertype_6000", "wall_following_robot_24")
LABELS = {"adult": (5, 25), "covertype_6000": (2, 7), "wall_following_robot_24": (3, 12)}  # a class, about 10 and 50 in all
TUNED = {"steps": 200}  # of fine-tuning, and of training from scratch
BEFORE = ("mlm", "simclr", "labels")  # upstream


def transfer(folder: Path, names: list[str], out: Path, steps: int) -> None:
    from untaught.commands.finetune import finetune, relearning
    from untaught.pipeline.pretrained import load_encoder

    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for name in names:
        x, y, test, truth = read(folder / f"{name}.csv.gz")
        y, truth = y.astype(str), truth.astype(str)
        random = np.random.default_rng(0)
        early = np.sort(random.permutation(x.shape[1])[: round(x.shape[1] * 2 / 3)])
        upstream = random.random(len(x)) < 0.8
        before = x.iloc[:, early][upstream].assign(label=y[upstream])
        after = pd.concat([x[~upstream].assign(label=y[~upstream], split="train"), test.assign(label=truth, split="test")])
        for system in BEFORE:
            if f"{name}, {system}" in found:
                continue
            began, scores = time.perf_counter(), {}
            with tempfile.TemporaryDirectory() as place:
                run = Path(place) / "run"
                loop = {"steps": 1 if system == "labels" else steps, "batch_size": 128, "health_every": 0, "evaluate_every": 0}
                method = "mlm" if system == "labels" else system
                pretrain(
                    PretrainArguments(before, method, "ft_transformer", run, "table", label="label", knobs={**loop, "defaults": "short"})
                )
                if system == "labels":
                    run, _ = finetune(
                        load_encoder(run),
                        run,
                        before,
                        task="classify",
                        label="label",
                        record=False,
                        knobs={"steps": steps, "batch_size": 128, "scratch": False, "probe": False},
                    )
                for count in LABELS[name]:
                    knobs = {**TUNED, "labels": f"{count}/class", "draws": 3, "scratch": system == BEFORE[0]}
                    _, model = finetune(
                        relearning(run) or load_encoder(run),
                        run,
                        after,
                        task="classify",
                        label="label",
                        split="split",
                        record=False,
                        knobs=knobs,
                        out=Path(place) / f"model-{count}",
                    )
                    own = [row for row in model.config["scores"] if row["metric"] == "accuracy"]
                    scores[str(count)] = {row["features"]: [row["mean"], row["low"], row["high"]] for row in own}
            found[f"{name}, {system}"] = {"scores": scores, "seconds": round(time.perf_counter() - began)}
            out.write_text(json.dumps(found, indent=1))
            print(name, system, scores, flush=True)
        if f"{name}, classical" not in found:
            own = SelfSupervisedEncoder("scarf", steps=1, random_state=0, passthrough=True).fit(x[~upstream])
            raw, raw_test = (own.transform(part)[:, :-256] for part in (x[~upstream], test))
            own = SelfSupervisedEncoder("scarf", steps=1, random_state=0, passthrough=True).fit(before.drop(columns="label"))
            shared, shared_test = (own.transform(part)[:, :-256] for part in (before.drop(columns="label"), test.iloc[:, early]))
            known, scores = boosted(shared, y[upstream], shared_test, "classes"), {}
            for count in LABELS[name]:
                guesses = {
                    "linear": probe(raw, raw_test, y[~upstream], count, False),
                    "boosting": trees(raw, raw_test, y[~upstream], count, False),
                }
                guesses["boosting, labels upstream"] = known[None]
                each = {who: measured(quality(guess, truth, False)) for who, guess in guesses.items()}
                scores[str(count)] = {who: [m.mean, *m.interval] for who, m in each.items()}
            found[f"{name}, classical"] = {"scores": scores}
            out.write_text(json.dumps(found, indent=1))
            print(name, "classical", scores, flush=True)


# ----------------------------------------------------------------------------------------------------------------- speed


class PerSample(torch.utils.data.Dataset):
    """SCARF's views one row at a time: a row, and the row with 60% of its features taken from other rows."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = torch.from_numpy(x)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.x[index]
        chosen = torch.zeros(len(row), dtype=torch.bool)
        chosen[torch.randperm(len(row))[: int(0.6 * len(row))]] = True
        others = self.x[torch.randint(len(self.x), (len(row),)), torch.arange(len(row))]
        return row, torch.where(chosen, others, row)


def speed(path: Path, steps: int = 15, batch: int = 256) -> None:
    """Rows a second of the views alone and of whole steps, ours and per sample, alternating, on one thread, the same network."""
    import untaught as ut
    from untaught.config.registry import build_encoder
    from untaught.methods import SimCLR

    torch.set_num_threads(1)
    x, _, _, _ = read(path)
    views = ut.views("table", x, method="simclr", views="whole,global", global__level=0.6)
    data = views.decode(x)
    torch.manual_seed(0)
    encoder = build_encoder("mlp_table", views.input, {})
    ours = SimCLR(encoder, views.facts(encoder, len(x)))
    loader = torch.utils.data.DataLoader(PerSample(data["cells"].nan_to_num().numpy()), batch_size=batch, shuffle=True, drop_last=True)
    plain = build_encoder(
        "mlp_table", {"features": [{"name": str(i), "values": 0, "edges": []} for i in range(data["cells"].shape[1])]}, {}
    )
    theirs = torch.nn.ModuleDict({"encoder": plain, "projector": SimCLR(plain, views.facts(encoder, len(x))).projector})
    adam = {name: torch.optim.Adam(module.parameters(), 1e-3) for name, module in (("ours", ours), ("theirs", theirs))}
    order = torch.randperm(len(x))

    def our_views(step: int) -> Any:
        at = order[(step * batch) % (len(x) - batch) :][:batch]
        return views({key: value[at] for key, value in data.items()}, step)

    def our_step(step: int) -> None:
        loss = ours(our_views(step), 0.0)["nt_xent"]
        adam["ours"].zero_grad()
        loss.backward()
        adam["ours"].step()

    feed = iter([])

    def their_views(step: int) -> Any:
        nonlocal feed
        found = next(feed, None)
        if found is None:
            feed = iter(loader)
            found = next(feed)
        return found

    def their_step(step: int) -> None:
        a, b = (theirs["projector"](theirs["encoder"].get_submodule("layers")(part)) for part in their_views(step))
        z = torch.nn.functional.normalize(torch.cat([a, b]))
        similarity = (z @ z.T / 0.1).fill_diagonal_(-1e9)
        loss = torch.nn.functional.cross_entropy(similarity, torch.arange(2 * batch).roll(batch))
        adam["theirs"].zero_grad()
        loss.backward()
        adam["theirs"].step()

    found: dict[str, list[float]] = {}
    pairs = {"views": (our_views, their_views), "steps": (our_step, their_step)}
    for turn in range(6):
        for what, both in pairs.items():
            count = steps * (10 if what == "views" else 1)
            for who, run in zip(("ours", "per sample"), both, strict=True):
                began = time.process_time()
                for step in range(count if turn else 3):
                    run(step)
                if turn:
                    found.setdefault(f"{what}, {who}", []).append(count * batch / (time.process_time() - began))
    for what, rates in found.items():
        print(f"{what}: {np.median(rates):,.0f} rows per second of CPU time ({min(rates):,.0f} to {max(rates):,.0f})")
    for what in pairs:
        print(f"{what}: {np.median(found[f'{what}, ours']) / np.median(found[f'{what}, per sample']):.1f} times as many")


def published(path: Path, batch: int) -> None:
    """Rows a second of CPU time of SCARF's training, ours through `pretrain` and that of ts3l, which makes its views one row at a time.
    Both have 4 layers of 256, a head of 2, Adam and one thread; the time of few steps is taken from that of more."""
    import pytorch_lightning as lightning
    from ts3l.pl_modules import SCARFLightning  # pyright: ignore[reportMissingImports] -- a peer
    from ts3l.utils.backbone_utils import MLPBackboneConfig  # pyright: ignore[reportMissingImports]
    from ts3l.utils.embedding_utils import IdentityEmbeddingConfig  # pyright: ignore[reportMissingImports]
    from ts3l.utils.scarf_utils import SCARFConfig, SCARFDataset  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    x, _, _, _ = read(path)
    words = [name for name in x if not pd.api.types.is_numeric_dtype(x[name])]
    numbers = [name for name in x if name not in words]
    codes = x.assign(**{name: pd.factorize(x[name])[0] for name in words}, **(x[numbers] - x[numbers].mean()) / x[numbers].std())
    about = {"task": "classification", "loss_fn": "CrossEntropyLoss", "metric": "accuracy_score", "output_dim": 2}
    layers = MLPBackboneConfig(input_dim=len(codes.columns), hidden_dims=256, n_hiddens=4)
    config = SCARFConfig(
        **about, embedding_config=IdentityEmbeddingConfig(input_dim=len(codes.columns)), backbone_config=layers, corruption_rate=0.6
    )
    model: Any = SCARFLightning(config)
    model.set_first_phase()
    rows = SCARFDataset(codes, config=config, continuous_cols=numbers, category_cols=words)
    loader = torch.utils.data.DataLoader(rows, batch_size=batch, shuffle=True, drop_last=True)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}

    def theirs(steps: int) -> None:
        lightning.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=steps, **quiet).fit(model, loader)

    def ours(steps: int, precision: str) -> None:
        loop = {"steps": steps, "batch_size": batch, "optimizer": "adamw", "lr": 1e-3, "evaluate_every": 0, "precision": precision}
        with tempfile.TemporaryDirectory() as folder:
            knobs = {**loop, "views": "whole,global", "global.level": 0.6}
            pretrain(PretrainArguments(x, "simclr", "mlp_table", Path(folder) / "run", "table", knobs=knobs))

    runs: dict[str, tuple[Any, int]] = {
        "ts3l, float32": (theirs, 6),
        "ours, float32": (lambda steps: ours(steps, "float32"), 100),
        "ours, by default": (lambda steps: ours(steps, "auto"), 100),
    }
    for name, (run, few_steps) in runs.items():
        times = []
        for steps in (1, few_steps, 5 * few_steps):
            began = time.process_time()
            run(steps)
            times.append(time.process_time() - began)
        print(f"{name}: {4 * few_steps * batch / (times[2] - times[1]):,.0f} rows per second of CPU time", flush=True)


def scale(folder: Path, rows: int, steps: int) -> None:
    """A million rows of 50 columns: time and peak memory of learning the columns, packing and training."""
    import pyarrow as pa
    from pyarrow import parquet

    import untaught as ut

    path = folder / f"rows-{rows}.parquet"
    if not path.exists():
        random = np.random.default_rng(0)
        writer = None
        for start in range(0, rows, 50_000):
            count = min(50_000, rows - start)
            hidden = random.normal(size=(count, 8)).astype(np.float32)
            columns: dict[str, Any] = {f"n{i}": pa.array(hidden @ random.normal(size=8).astype(np.float32)) for i in range(40)}
            columns |= {
                f"c{i}": pa.array(np.array(["red", "green", "blue", "grey"])[np.digitize(hidden[:, i % 8], (-1, 0, 1))]) for i in range(10)
            }
            table = pa.table(columns)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        assert writer is not None
        writer.close()
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ut.pretrain(path, modality="table", out=folder / f"run-{rows}", steps=steps, batch_size=512)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{rows:,} rows: {time.perf_counter() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU time")
    print(f"peak memory {used.ru_maxrss / 1e6:.2f} GB, {before / 1e6:.2f} GB of it before the data were opened")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("few", "matrix", "codes", "transfer", "speed", "published", "scale"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--tables", default="")
    parser.add_argument("--out", type=Path, default=Path("few.json"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3, help="of pretraining, for few")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    if chosen.what == "few":
        names = chosen.tables.split(",") if chosen.tables else sorted(path.name.split(".")[0] for path in chosen.data.glob("*.csv.gz"))
        few(chosen.data, names, chosen.out, chosen.steps, chosen.seeds)
    elif chosen.what == "matrix":
        matrix(chosen.data)
    elif chosen.what == "codes":
        codes(chosen.data, chosen.tables.split(",") if chosen.tables else list(CODED), chosen.out, chosen.steps)
    elif chosen.what == "transfer":
        transfer(chosen.data, chosen.tables.split(",") if chosen.tables else list(TRANSFERRED), chosen.out, chosen.steps)
    elif chosen.what == "speed":
        speed(chosen.data)
    elif chosen.what == "published":
        published(chosen.data, chosen.batch)
    else:
        scale(chosen.data, chosen.rows, chosen.steps)


if __name__ == "__main__":
    main()
