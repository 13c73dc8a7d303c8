"""Forecasting: the next `horizon` values of every channel, from the `context` values before them.

Samples are all windows of the series, one at every step (`data.windows`). They are split in time: the future of a training window lies
before the first of `ends`, that of a validation window between the first two, that of a test window between the last two; the context of a
test window may reach back into the part before, as in the protocol of Zhou et al. 2021 (https://arxiv.org/abs/2012.07436) and its
successors, of which every test window counts here: no last batch is dropped (Qiu et al. 2024, https://arxiv.org/abs/2403.20150).
Head: linear, from the encoder's vectors to the future, whose scale is that of the context: reversible instance normalisation (Kim et al.,
ICLR 2022, https://openreview.net/forum?id=cGDAkQo1C0p) without learned weights. An encoder of single channels reads, and its head
forecasts, each channel by itself (Nie et al., ICLR 2023, https://arxiv.org/abs/2211.14730). The head is solved first by ridge regression
on the frozen encoder's vectors, its penalty chosen on the validation windows. Loss: squared error of values standardised by the training
steps, missing ones left out. Intervals are from a bootstrap over blocks of `horizon` windows, since windows overlap.
Baselines: the last value, seasonal naive, and ridge regression on the window (`evaluation.forecasts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from untaught.console import say, warn
from untaught.core import Encoder, Modality, Options, Preprocessor, Record, Terms, UserError, View
from untaught.data.clock import times_after
from untaught.data.store import Store, sizes
from untaught.data.windows import Windows
from untaught.downstream.forecast_plots import plotted, png
from untaught.downstream.network import Network, TrainedLayers
from untaught.downstream.task import Predictions, Targets, Task, array
from untaught.evaluation.forecasts import chosen_penalty, classical, summed_errors
from untaught.ops.carry import carried
from untaught.ops.least_squares import LeastSquares
from untaught.pipeline.dataset import Dataset
from untaught.ranges import FewOrNone, Within, in_range

if TYPE_CHECKING:
    import pyarrow

    from untaught.downstream.tuner import Tuner

Steps = Annotated[int, Within(1, 1 << 14)]
End = Annotated[float, Within(0, 1 << 24)]
LONGEST = 512  # time steps of the context, where the encoder was trained on longer series
SOLVED, VALIDATED = 10_000, 1_000  # training windows of the closed form, and validation windows, at most: neighbours say nearly the same
LARGEST = 8192  # inputs of a head that is solved in closed form
SMALL = 1e-6  # of a channel's deviation: contexts with less say nothing of the scale of their future


class Forecast(Task):
    """facts: `horizon`, `context`, `read`, `reversible`; `channels` of the training series, `mean` and `std` of each over the training
    steps; `apart`: whether the encoder reads each channel by itself."""

    percent = False
    target = "future"
    views = ("whole",)
    lr = 1e-5  # the head begins at its optimum: at 2e-4 the validation loss of ETTh1 rose at once and stayed above it for 36 steps
    repeated = ("past", "clock")
    compared = True
    meaning = ("horizon", "context", "read", "reversible")
    beside_name = "channels.csv"

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Options,
        layers: TrainedLayers | None = None,
        *,
        horizon: Steps = 96,  # time steps that are forecast
        context: Annotated[int, Within(0, 1 << 14)] = 0,  # time steps that are read; 0: as long as the series in pretraining, at most 512
        ends: tuple[End, End, End] = (0.7, 0.8, 1.0),  # of training, validation and test part: shares of each series, or time steps
        read: Literal["auto", "all", "last", "pooled"] = "auto",  # vectors that the head reads: of all tokens, the last one, or pooled
        reversible: bool = True,  # whether the forecast has the mean and deviation of its context
        period: FewOrNone = 0,  # time steps of seasonal naive, the baseline; 0: chosen on the validation part
    ) -> None:
        super().__init__(encoder, facts)
        self.horizon, self.context, self.read, self.reversible = horizon, context, read, reversible
        self.mean, self.std, self.apart = _checked(facts, context)
        self.channels, self.names = len(self.mean), _names(facts, len(self.mean))
        inputs = self._inputs(encoder)
        outputs = horizon * (1 if self.apart else self.channels)
        self.network = Network(encoder, nn.Linear(inputs, outputs), layers, self._vectors)

    def _inputs(self, encoder: Encoder) -> int:
        if self.read == "auto":
            self.read = "all" if "tokens" in encoder.offers else "last" if "steps" in encoder.offers else "pooled"
        if self.read != "pooled" and not encoder.offers & {"tokens", "sequence"}:
            raise UserError(f"read={self.read}: {type(encoder).__name__} has no tokens; choose read=pooled")
        if self.read != "all":
            return encoder.width
        if "steps" in encoder.offers:
            return encoder.width * self.context
        grid = encoder.grid(View(torch.empty(1, self.context, 1)))
        return encoder.width * int(np.prod(grid))

    def _vectors(self, encoder: Encoder, view: View) -> Tensor:
        """-> (B,G,D): of each of a window's inputs, one for each channel or a single one."""
        inputs = view.apart()
        if self.read == "pooled":
            found = encoder(inputs)
        else:
            layered = "layers" in encoder.offers  # the last layer, before a final normalisation takes away the size of the values
            features = encoder.features(inputs, want=("layers",) if layered else ("tokens",))
            tokens = features.layers[-1] if features.layers else features.tokens
            assert tokens is not None
            found = tokens[:, -1] if self.read == "last" else tokens.flatten(1)
        return found.float().unflatten(0, (len(view), -1))

    # ------------------------------------------------------------------------------------------------------ samples

    @classmethod
    def reading(cls, prep: Preprocessor, labelled: bool = True) -> Preprocessor:
        """Series are read whole: their windows are cut here."""
        found = super().reading(prep, labelled)
        return replace(found, modality=replace(found.modality, cut=None))

    def name_channels(self, settings: Options) -> None:
        self.names = settings.get("channel_names") or self.names

    def reading_new(self, prep: Preprocessor) -> Preprocessor:
        """Of new data, the last `context` steps; a series with fewer can't be read."""
        decode = prep.modality.decode

        def latest(record: Record, own: Preprocessor) -> dict[str, np.ndarray]:
            found = {}
            for name, values in decode(record, own).items():
                if name in own.ragged and len(values) < self.context:
                    raise ValueError(f"{len(values):,} time steps, but the model reads {self.context:,}")
                found[name] = values[-self.context :] if name in own.ragged else values
            return found

        name = f"{prep.modality.name}, the last {self.context}"  # not the store of whole series
        return replace(prep, modality=replace(prep.modality, name=name, decode=latest))

    @classmethod
    def arrange(cls, dataset: Dataset, trained: Preprocessor, knobs: Options) -> None:
        store = dataset.store
        assert isinstance(store, Store)
        horizon, ends = knobs.get("horizon", 96), tuple(map(float, knobs.get("ends", (0.7, 0.8, 1.0))))
        context = knobs.get("context") or min(trained.settings["length"], LONGEST)
        knobs["context"] = context  # settled: part of the facts
        if not 0 < ends[0] < ends[1] < ends[2]:
            raise UserError(f"ends={','.join(f'{end:g}' for end in ends)}: must rise, as the ends of training, validation and test part do")
        windows = Windows(store, context, horizon)
        windows.named = {"names": names} if (names := dataset.prep.settings.get("channel_names")) else {}
        longest = int(windows.lengths.max(initial=0))
        if not len(windows):
            raise UserError(
                f"the longest series has {longest:,} time steps, but a window has {context:,} of context and {horizon:,} to forecast; "
                "choose a shorter context= or horizon="
            )
        parts = windows.in_time(ends)  # type: ignore[arg-type]
        if empty := [name for name, rows in parts.items() if not len(rows)]:
            raise UserError(
                f"no {empty[0]} window: series of up to {longest:,} time steps, ends={','.join(f'{end:g}' for end in ends)}, context "
                f"{context:,}, horizon {horizon:,}; choose other ends=, a shorter context= or horizon="
            )
        parts["val"] = thinned(parts["val"], VALIDATED)
        if short := int((windows.lengths < context + horizon).sum()):
            warn(f"{short:,} of {len(store):,} series are shorter than context and horizon together ({context + horizon:,}): left out")
        until = trained.settings.get("until")
        if not until or (until > ends[0] if (until > 1) == (ends[0] > 1) else True):
            said = f"until={until:g}" if until else "all time steps"
            warn(
                f"if the encoder was pretrained on these series, it has seen ({said}) steps that it is tested on; pretrain with "
                f"until={ends[0]:g} for an honest score"
            )
        dataset.prep = replace(dataset.prep, modality=replace(dataset.modality, noun="windows"))
        dataset.store, dataset.parts = windows, parts  # type: ignore[assignment]
        dataset.how_split = f"in time, at {', '.join(f'{end:g}' for end in ends)}: {sizes(parts)}"

    @classmethod
    def targets(cls, store: Any, modality: Modality, what: str, knobs: Options) -> Targets:
        assert isinstance(store, Windows)
        known = np.ones(len(store), bool)
        about = f"context {store.context:,}, horizon {store.horizon:,}; "
        return Targets(
            known, np.zeros(len(store), np.int64), modality.targets["future"].follow, {"windows": store, "named": store.named}, about
        )

    @classmethod
    def check_targets(cls, targets: Targets, train: np.ndarray, test: np.ndarray | None, noun: str) -> list[str]:
        std = _statistics(targets.facts["windows"], train)[1]
        flat = [str(channel) for channel in range(len(std)) if not std[channel] > 0]
        if len(flat) == len(std):
            raise UserError("every channel is constant or missing in the training part; there is nothing to forecast")
        which = f"channel{'s' * (len(flat) > 1)} {', '.join(flat[:5])}{' ...' * (len(flat) > 5)}"
        return [f"{which} constant or missing in the training part: scored in its own unit, not standardised"] if flat else []

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        mean, std = _statistics(targets.facts["windows"], train)
        return {
            "mean": mean.tolist(),
            "std": np.where(std > 0, std, 1.0).tolist(),
            "apart": example.parts is not None,
            **targets.facts["named"],
        }

    @property
    def setting(self) -> str:
        return f"@{self.horizon}"

    @property
    def facts(self) -> Options:
        own = {"horizon": self.horizon, "context": self.context, "read": self.read, "reversible": self.reversible}
        return {**own, "mean": self.mean, "std": self.std, "apart": self.apart, "names": self.names}

    # ------------------------------------------------------------------------------------------------------ training

    def _scale(self, view: View) -> tuple[Tensor, Tensor]:
        """Level and spread (B,1,C) of the forecast, in the data's unit."""
        assert view.meta is not None
        seen = view.meta["seen"]
        count = seen.shape[2]
        mean, std = (seen.new_tensor(each if len(each) == count else [fill] * count) for each, fill in ((self.mean, 0.0), (self.std, 1.0)))
        mean, std = mean.expand(len(seen), 1, -1), std.expand(len(seen), 1, -1)
        if not self.reversible:
            return mean, std
        known = seen.isfinite()
        number = known.sum(1, keepdim=True)
        level = torch.where(number > 0, seen.nan_to_num(0.0).sum(1, keepdim=True) / number.clamp(min=1), mean)
        spread = (torch.where(known, seen - level, 0.0).square().sum(1, keepdim=True) / number.clamp(min=1)).sqrt()
        return level, spread

    def forecast(self, view: View) -> Tensor:
        """(B,H,C) in the data's unit."""
        level, spread = self._scale(view)
        made = self.network(view)  # (B,G,H or H * C)
        made = made.mT if self.apart else made.unflatten(2, (self.horizon, -1))[:, 0]
        return made * spread + level

    def _errors(self, view: View) -> tuple[Tensor, Tensor]:
        """Standardised errors (B,H,C), 0 where the target is missing; and where it is known."""
        assert view.target is not None
        known = view.target.isfinite()
        std = view.target.new_tensor(self.std)
        return torch.where(known, (self.forecast(view) - view.target.nan_to_num(0.0)) / std, 0.0), known

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B, ...) with target (B,H,C) in the data's unit, NaN where missing."""
        (view,) = views
        error, known = self._errors(view)
        return {"squared_error": error.square().sum() / known.sum().clamp(min=1)}

    @torch.no_grad()
    def solve(self, views: Callable[[np.ndarray], Iterable[View]], train: np.ndarray, validation: np.ndarray | None) -> bool:
        """Sets the head to the ridge regression on the encoder's vectors; False if these are too many."""
        head = self.network.head
        assert isinstance(head, nn.Linear)
        if head.in_features > LARGEST:
            warn(f"the head reads {head.in_features:,} numbers, too many for a closed form: it starts at random; read=last has fewer")
            return False
        sums = self._sums(views(thinned(train, SOLVED)))
        held_out = self._sums(views(validation)) if validation is not None else None
        penalty, solution = chosen_penalty(sums, held_out)
        head.weight.copy_(solution[:-1].T)
        assert head.bias is not None
        head.bias.copy_(solution[-1])
        by = f", penalty {penalty:g} by the validation part" if held_out is not None else ""
        say(f"head      ridge regression on {head.in_features:,} numbers of the frozen encoder{by}")
        return True

    def _sums(self, views: Iterable[View]) -> LeastSquares:
        head: Any = self.network.head
        sums: LeastSquares | None = None
        for view in views:
            assert view.target is not None
            assert view.meta is not None
            sums = sums or LeastSquares(head.in_features, head.out_features, view.x.device)
            found = self.network.read(self.network.encoder, view)  # (B,G,D)
            level, spread = self._scale(view)
            std = view.target.new_tensor(self.std)
            whole = torch.cat([view.meta["seen"], view.target], 1)
            target = (carried(whole)[:, -self.horizon :] - level) / spread.maximum(SMALL * std)
            weight = (spread / std).square() * (view.target.isfinite().float().mean(1, keepdim=True) >= 0.5)  # (B,1,C)
            if self.apart:
                sums.add(found.flatten(0, 1), target.mT.flatten(0, 1), weight.flatten())
            else:
                sums.add(found[:, 0], target.flatten(1), weight.mean(2).flatten())
        assert sums is not None
        return sums

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """forecast (B,H,C) in the data's unit; without a target also past (B,context,C), the values before it, and clock (B,3)."""
        assert view.meta is not None
        found = {"forecast": array(self.forecast(view))}
        if view.target is None:  # new data, of which pictures and times are made
            found["past"] = array(view.meta["seen"])
            if "clock" in view.meta:
                found["clock"] = view.meta["clock"].double().cpu().numpy()
        return found

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """The mean squared error on standardised values."""
        return self.scores(self.outcome(predictions, truth))["mse"]

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """-> (blocks, 3): of each `horizon` windows in order, the sums of squared and absolute standardised errors, and their number."""
        return _blocks(summed_errors(predictions["forecast"], truth, self.std), self.horizon)

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Mean squared and mean absolute error on standardised values."""
        squares, absolute, count = outcome.sum(0).tolist()
        return {"mse": squares / max(count, 1), "mae": absolute / max(count, 1)}

    @classmethod
    def baselines(cls, tuner: Tuner) -> dict[str, np.ndarray]:
        """Outcomes of forecasts without an encoder, by name."""
        rows, validation = tuner.plans[0]
        windows: Any = tuner.dataset.store
        assert tuner.test is not None
        facts = cls.learned(tuner.targets, rows, tuner.encoder, tuner.example(rows[:1]))
        period, std = tuner.knobs.get("period", 0), np.array(facts["std"])
        found = classical(windows, rows, tuner.validation if validation is None else validation, tuner.test, std, period, say)
        return {name: _blocks(errors, windows.horizon) for name, errors in found}

    @torch.no_grad()
    def pictures(self, tuner: Tuner) -> dict[str, bytes]:
        """forecasts.png: the first, the middle and the last test window."""
        assert tuner.test is not None
        rows, windows = tuner.test[[0, len(tuner.test) // 2, -1]], tuner.dataset.store
        assert windows is not None
        batch = {name: torch.from_numpy(values).to(tuner.device) for name, values in windows.gather(rows).items()}
        view = tuner.targets.follow(batch, tuner.used({**batch, "index": torch.from_numpy(rows).to(tuner.device)}, 0)[0])
        assert view.target is not None
        assert view.meta is not None
        made = array(self.eval().forecast(view))
        past, truth = array(view.meta["seen"]), array(view.target)
        drawn = [plotted(*each, names=self.names_of(made.shape[2])) for each in zip(past, made, truth, strict=True)]
        return {"forecasts.png": png(drawn)}

    def files(self, predictions: Predictions) -> list[tuple[str, Any]]:  # type: ignore[override]
        """A picture of each series' end and what follows."""
        made = predictions["forecast"]
        own = self.names_of(made.shape[2])
        drawn = [plotted(past, each, None, own) for past, each in zip(predictions["past"], made, strict=True)]
        return list(zip(predictions["name"], drawn, strict=True))

    def names_of(self, count: int) -> list[str]:
        """The names of this many channels: those of the data or that it was fine-tuned on, or their numbers."""
        return self.names if len(self.names) == count else [str(number) for number in range(count)]

    def beside(self, predictions: Predictions, truth: np.ndarray, names: Sequence[str]) -> pyarrow.Table:
        """channel, mse and mae on standardised values, mae_in_unit: in the data's; NaN for a channel without values."""
        import pyarrow as pa

        known, std = np.isfinite(truth), np.array(self.std)
        count = known.sum((0, 1))
        error = np.where(known, np.abs(predictions["forecast"] - truth), 0.0)
        total = lambda each: np.where(count > 0, each.sum((0, 1)) / np.maximum(count, 1), np.nan)  # noqa: E731
        own = {"mse": total((error / std) ** 2), "mae": total(error / std), "mae_in_unit": total(error)}
        return pa.table({"channel": self.names_of(truth.shape[2]), **own})

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """row and name of the series, step (1: the first after its end), time (where the data has times), channel, value."""
        import pyarrow as pa

        made = predictions["forecast"]
        count, steps, channels = made.shape
        times = np.array([times_after(clock, steps) for clock in predictions.get("clock", [])], object)
        names = np.array(self.names_of(channels), object)
        return pa.table(
            {
                "row": np.repeat(predictions["row"], steps * channels),
                "name": np.repeat(np.array(predictions["name"], object), steps * channels),
                "step": np.tile(np.repeat(np.arange(1, steps + 1), channels), count),
                **({"time": np.repeat(times.ravel(), channels)} if times.size and (times != "").any() else {}),
                "channel": np.tile(names, count * steps),
                "value": made.ravel(),
            }
        )


def _statistics(windows: Windows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C,) of each channel over the time steps up to the end of the last of these windows in its series; 0 for
    a channel without values."""
    row, future = windows.places(rows)
    ends = np.zeros(len(windows.lengths), np.int64)
    np.maximum.at(ends, row, future + windows.horizon)
    column = windows.store.columns[windows.field]
    values = np.concatenate([column[start : start + end] for start, end in zip(windows.offsets, ends, strict=False) if end]).astype(
        np.float64
    )
    known = np.isfinite(values)
    count, values = np.maximum(known.sum(0), 1), np.where(known, values, 0.0)
    mean = values.sum(0) / count
    std = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(0) / count)
    return mean, np.where(std > SMALL * np.maximum(np.abs(mean), SMALL), std, 0.0)


def thinned(rows: np.ndarray, most: int) -> np.ndarray:
    """At most this many of the rows (n,), evenly spaced."""
    return rows[:: -(-len(rows) // most)]


def _blocks(errors: np.ndarray, size: int) -> np.ndarray:
    """(N,3) -> (ceil(N / size), 3): the sums of `size` rows each."""
    return np.add.reduceat(errors, np.arange(0, len(errors), size))


def _names(facts: Options, count: int) -> list[str]:
    names = facts.get("names")
    good = isinstance(names, list) and len(names) == count and all(isinstance(one, str) for one in names)
    return names if good else [str(number) for number in range(count)]  # type: ignore[return-value]


def _checked(facts: Options, context: int) -> tuple[list[float], list[float], bool]:
    mean, std, apart = (facts.get(name) for name in ("mean", "std", "apart"))
    for name, values in (("mean", mean), ("std", std)):
        if not isinstance(values, list) or not values or not all(type(one) in (int, float) and np.isfinite(one) for one in values):
            raise UserError(f"its config.json has no {name} of the training steps; copy the complete folder, or fine-tune again")
    if len(mean) != len(std) or min(std) <= 0 or type(apart) is not bool or not context >= 1:  # type: ignore[arg-type]
        raise UserError("its config.json has no context, no deviations above 0, or not whether channels are read apart; fine-tune again")
    return mean, std, apart  # type: ignore[return-value]
