"""Label propagation in videos by frozen encoders, beside random init, the colours of the pixels, and the first mask, unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from untaught.config.registry import modality_named
from untaught.console import say, warn
from untaught.core import Encoder, Options, Preprocessor, UserError, View
from untaught.encoders.colours import Colours
from untaught.evaluation.evaluator import merge_rows
from untaught.evaluation.interval import measure, row
from untaught.evaluation.label_propagation import contour_accuracy, masks_of, propagate, region_similarity
from untaught.evaluation.models import EvaluatedModel, open_model
from untaught.modalities.image.videos import Video, open_videos
from untaught.pipeline.dataset import Dataset, open_dataset
from untaught.storage.atomic import make_room

TASK = PROBE = "propagate"
PLACES = 30  # of the map along the shorter side; DINO has 60 at 480p
LEAST_STRIDE = 4  # pixels per place: finer maps are averaged
Frames = np.ndarray  # (T,H,W,C) uint8
Predict = Callable[[Frames, np.ndarray], np.ndarray]  # frames, the first mask (H,W) of classes 0..C-1 -> classes (T,H,W)


def propagation_probe(
    target: Any, data: Any, *, against: Sequence[tuple[str, Any]] = (), out: Path | None = None, binary: bool = False
) -> list[Options]:
    """Rows of evaluation.json: J, F and their mean J&F in videos, for the encoder, its baselines, and others by name.

    target, and those of `against`: as for `open_model`. data: a folder or .zip of videos, as for `open_videos`. binary: every value of a
    mask other than 0 is one object. The rows are written to evaluation.json of the run, or to `out`, a folder or a .json file.
    Raises UserError.
    """
    model = open_model(target, lambda: modality_named("image"))
    peers = [(f"against:{name}", open_model(peer, lambda: modality_named("image"))) for name, peer in against]
    for _, one in (("encoder", model), *peers):
        if one.modality.name != "image":
            raise UserError(f"--task {TASK} requires an encoder of images; {one.name} is one of {one.modality.noun}")
    folder = out or model.run
    place = folder if folder is None or folder.suffix == ".json" else folder / "evaluation.json"
    if place is not None:
        make_room(place)
    if not isinstance(data, str | Path):
        raise UserError(f"--task {TASK} requires a folder or a .zip of videos, got {type(data).__name__}")
    videos = open_videos(data)
    for video in videos:
        if not scored(video):
            found = f"{len(video.images)} frame{'s' * (len(video.images) != 1)}, {len(video.annotations)} with a mask"
            raise UserError(f"video {video.name} has {found}; the first and the last are not scored: give at least one mask in between")
    say(f"videos    {len(videos):,}, {sum(len(video.images) for video in videos):,} frames")

    networks: dict[str, Predict] = {}
    for name, one in (("encoder", model), *peers):
        example = example_of(one, videos[0])
        prep = prep_of(one, example)
        networks[name] = ByFeatures(one.build(example), prep)
        if name == "encoder":
            random_init = one.random_init(example)
            if random_init is None:
                warn("skipping the random-init baseline: some modules lack reset_parameters()")
            else:
                networks["random_init"] = ByFeatures(random_init, prep)
            channels = prep.settings["channels"]
            half = {"mean": [0.5] * channels, "std": [0.5] * channels}
            networks["raw"] = ByFeatures(Colours(channels), Preprocessor(prep.modality, prep.settings, half))
            networks["copy"] = copied
    rows: list[Options] = []
    for name, predict in networks.items():
        say(f"tracking  {name}")
        outcome = np.array([totals(objects(predict, video, binary)) for video in videos])
        for metric, one in measure(means, [outcome], (0.0, 1.0)).items():
            rows.append(row(PROBE, "first mask", metric, one.mean, *one.interval, 1) | {"features": name, "data": str(data)})
    if place is not None:
        merge_rows(place, rows)
        say(f"wrote     {place}")
    return rows


def example_of(model: EvaluatedModel, video: Video) -> Dataset:
    """The frames of a video as a data set, for the shape of an encoder's input."""
    channels = model.prep.settings["channels"] if model.prep else 3
    frames = video.frames(3 if channels != 1 else 1)
    return open_dataset(frames[:2], model.modality, columns=None, label=None, split=None)


def prep_of(model: EvaluatedModel, example: Dataset) -> Preprocessor:
    prep = model.shown(example.prep)
    if prep.settings["channels"] not in (1, 3):
        raise UserError(f"--task {TASK} requires an encoder of grey or RGB images; {model.name} takes {prep.settings['channels']} channels")
    return prep


def scored(video: Video) -> list[int]:
    """The frames with a mask, without the first and the last of the video, as in DAVIS."""
    return sorted(number for number in video.annotations if 0 < number < len(video.images) - 1)


def objects(predict: Predict, video: Video, binary: bool = False) -> list[tuple[float, float]]:
    """(J, F) of every object of the first mask, means over the scored frames. Raises UserError for masks that don't fit the frames."""
    masks = video.masks()
    first = masks[0]
    values = [1] if binary else [int(value) for value in np.unique(first) if value]
    truth = {number: masks[number] > 0 if binary else masks[number] for number in (0, *scored(video))}
    if not first.any():
        raise UserError(f"video {video.name}: the mask of its first frame is empty; start the video where its object is seen")
    classes = sum(((truth[0] == value) * (number + 1) for number, value in enumerate(values)), np.zeros(first.shape, np.int64))
    frames = video.frames(getattr(predict, "channels", 3))
    if frames.shape[1:3] != first.shape:
        sizes = [f"{width} x {height}" for height, width in (first.shape, frames.shape[1:3])]
        raise UserError(f"video {video.name}: its masks are {sizes[0]} pixels, its frames {sizes[1]}; resize them to one size")
    found = predict(frames, classes)
    scores = []
    for number, value in enumerate(values):
        pairs = [(found[frame] == number + 1, truth[frame] == value) for frame in scored(video)]
        scores.append((mean_of(region_similarity, pairs), mean_of(contour_accuracy, pairs)))
    return scores


def mean_of(score: Callable[[np.ndarray, np.ndarray], float], pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([score(found, true) for found, true in pairs]))


def totals(scores: list[tuple[float, float]]) -> list[float]:
    """Number of objects and sums of J and F: videos are resampled, means are over objects."""
    return [len(scores), *np.sum(scores, axis=0).tolist()]


def means(outcome: np.ndarray) -> dict[str, float]:
    """outcome (videos,3), as `totals` -> J&F, J and F in 0..1."""
    count, j, f = outcome.sum(0)
    return {"j&f": float((j + f) / 2 / count), "j": float(j / count), "f": float(f / count)}


def copied(frames: Frames, first: np.ndarray) -> np.ndarray:
    """The baseline without features: the first mask, unchanged."""
    return np.repeat(first[None], len(frames), 0)


class ByFeatures:
    """Propagates by the features of an encoder. place: which of its maps, from fine to coarse. Raises UserError without tokens or maps."""

    def __init__(self, encoder: Encoder, prep: Preprocessor, place: int = -1) -> None:
        self.kind = next((kind for kind in ("maps", "tokens") if kind in encoder.offers), "")
        if not self.kind:
            raise UserError(f"--task {TASK} requires an encoder with tokens or maps; {type(encoder).__name__} offers only pooled vectors")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.encoder, self.prep, self.place = encoder.eval(), prep, place
        self.channels: int = prep.settings["channels"]

    @torch.no_grad()
    def __call__(self, frames: Frames, first: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
        height, width = x.shape[2:]
        x = F.interpolate(x, self.size(height, width), mode="bilinear", antialias=True)
        given = self.prep.statistics or self.prep.fitted({"pixels": torch.from_numpy(frames).permute(0, 3, 1, 2)}).statistics
        mean, std = (torch.tensor(given[name]).view(-1, 1, 1) for name in ("mean", "std"))
        encoder = self.encoder.to(self.device)
        features = torch.stack([self.map_of(encoder, View(one[None].to(self.device))) for one in (x - mean) / std])
        if min(features.shape[2:]) > PLACES:
            features = F.adaptive_avg_pool2d(features, self.grid(height, width))
        shares = F.one_hot(torch.from_numpy(first)).permute(2, 0, 1)[None].float()
        labels = propagate(features, F.interpolate(shares, features.shape[2:], mode="area")[0].to(self.device))
        self.encoder.cpu()
        return masks_of(labels, (height, width))

    def map_of(self, encoder: Encoder, view: View) -> Tensor:
        """The vectors of one frame (D,h,w)."""
        found = encoder.features(view, (self.kind,))
        if self.kind == "maps":
            assert found.maps is not None
            return found.maps[self.place][0].float()
        assert found.tokens is not None
        height, width = encoder.grid(view)
        return found.tokens[0].float().T.unflatten(1, (height, width))

    def size(self, height: int, width: int) -> list[int]:
        """Of the resized frames: PLACES places along the shorter side; the encoder's own square if it takes no other."""
        if "any_size" not in self.encoder.offers:
            return [self.prep.settings["size"]] * 2
        stride = max(LEAST_STRIDE, getattr(self.encoder, "patch", 0) or self.encoder.stride or 32)
        scale = PLACES * stride / min(height, width)
        return [max(1, round(side * scale / stride)) * stride for side in (height, width)]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return max(1, round(PLACES * height / min(height, width))), max(1, round(PLACES * width / min(height, width)))
