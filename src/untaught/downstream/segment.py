"""Semantic segmentation: a class for every pixel, by a head on the encoder's feature maps.

`head=linear` is one layer on the last map (or patch tokens), each channel at unit variance (BatchNorm without weights, as in DINOv2's
linear evaluation, https://arxiv.org/abs/2304.07193), upsampled bilinearly: it measures the features alone. `head=conv` uses all maps from
a quarter of the view's side downwards, like the semantic branch of Panoptic FPN (Kirillov et al., CVPR 2019, section 3,
https://arxiv.org/abs/1901.02446): each is projected to one width, upsampled to the finest and summed; here a single 3 x 3 convolution
follows the sum, where the paper has one per stage.

Loss: cross-entropy per pixel, without ignored pixels. Scores: mean intersection over union (mIoU), counted over all pixels of all test
images as in PASCAL VOC, and pixel accuracy; intervals are from a bootstrap over images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untaught.core import Encoder, Modality, Options, Terms, UserError, View
from untaught.data.store import Store
from untaught.data.target import TARGET
from untaught.downstream.network import Network, TrainedLayers, maps
from untaught.downstream.task import Predictions, Targets, Task, array
from untaught.ranges import Within, in_range

if TYPE_CHECKING:
    import pyarrow

IGNORED = 255  # the class number of ignored pixels
WIDTH = 64  # of the convolutional head
MOST = 1 << 14  # channels of a map
STRIDE = 4  # of the finest map that the convolutional head uses, in pixels of the view


class Segment(Task):
    """facts: the pixel `values` of masks that are classes, the shapes (D,h,w) of the encoder's `maps`, and the knobs in `meaning`."""

    needs = frozenset({"maps"})
    lr = 1e-3  # its head starts from random init; chosen on held-out images of Penn-Fudan's training part
    target = "masks"
    meaning = ("head", "binary", "ignore", "names")

    @in_range
    def __init__(
        self,
        encoder: Encoder,
        facts: Options,
        layers: TrainedLayers | None = None,
        *,
        head: Literal["linear", "conv"] = "conv",
        binary: bool = False,  # treat all values above 0 as one class: instance masks numbered 1, 2, 3 ...
        ignore: Annotated[int, Within(-1, 255)] = IGNORED,  # value of ignored pixels; -1: none
        names: str = "",  # class names, separated by commas
    ) -> None:
        super().__init__(encoder, facts)
        self.values, shapes, side = _checked(facts)
        self.own: Options = {"head": head, "binary": binary, "ignore": ignore, "names": names}
        self.classes = class_names(self.values, names)
        self.maps: Options = {"maps": shapes, "side": side, "normalised": bool(facts.get("normalised", False))}  # older heads are not
        linear = head == "linear"
        made = Linear(shapes[-1][0], len(self.values), self.maps["normalised"]) if linear else Convolutions(shapes, side, len(self.values))
        self.network = Network(encoder, made, layers, _maps_and_side)
        self.numbers: Tensor
        self.register_buffer("numbers", torch.from_numpy(numbering(self.values, binary, ignore)), persistent=False)

    # ------------------------------------------------------------------------------------------------------ targets

    @classmethod
    def targets(cls, store: Store, modality: Modality, what: str, knobs: Options) -> Targets:
        target = cls.target_of(modality)
        assert target is not None
        binary, ignore = knobs.get("binary", False), knobs.get("ignore", IGNORED)
        column = store.columns[f"{TARGET}mask"]
        counts = sum(np.bincount(column[start : start + 256].ravel(), minlength=256) for start in range(0, len(column), 256))
        found = np.flatnonzero(counts)
        shown = ", ".join(map(str, found[:12])) + (" ..." if len(found) > 12 else "")
        if found.tolist() == [0, 255]:
            binary, ignore = True, -1 if ignore == IGNORED else ignore
        values = classes_of(found, binary, ignore)
        if len(values) < 2:
            raise UserError(f"the masks have values {shown}: {len(values)} class{'' if len(values) == 1 else 'es'}; at least 2 are needed")
        about = f"pixel values {shown}: {len(values)} classes"
        about += ", all above 0 form one class" if binary else ""
        about += f", {ignore} is ignored" if ignore in found else ""
        facts = {"values": values, "binary": binary, "ignore": ignore}
        everything = np.ones(len(store), bool)
        return Targets(everything, np.zeros(len(store), np.int64), target.follow, facts, f"{about}; ")

    @classmethod
    def learned(cls, targets: Targets, train: np.ndarray, encoder: Encoder, example: View) -> Options:
        training = encoder.training
        with torch.no_grad():
            shapes = [list(m.shape[1:]) for m in maps(encoder.eval(), example)]
        encoder.train(training)
        return {**targets.facts, "maps": shapes, "side": example.x.shape[-1], "normalised": True}

    @property
    def facts(self) -> Options:
        return {"values": list(self.values), **self.maps, "classes": list(self.classes), **self.own}

    # ------------------------------------------------------------------------------------------------------ training

    def forward(self, views: list[View], progress: float) -> Terms:
        """One view, x (B,C,H,W) with target (B,H,W) uint8, the mask's values."""
        (view,) = views
        assert view.target is not None
        logits, target = self.network(view), self.numbers[view.target.long()]
        counted = target != IGNORED
        loss = F.cross_entropy(logits, target, ignore_index=IGNORED, reduction="sum") / counted.sum().clamp(min=1)
        return {"cross_entropy": loss}

    # --------------------------------------------------------------------------------------------------- predictions

    def predict(self, view: View) -> Predictions:
        """classes (B,H,W) uint8 by number; size (B,2) of the original images; shares (B,classes), the share of pixels of each class."""
        assert view.meta is not None
        logits = self.network(view)
        predicted = logits.argmax(1)
        shares = torch.stack([(predicted == number).float().mean((1, 2)) for number in range(len(self.classes))], 1)
        shares = shares + 0 * logits.mean((1, 2, 3))[:, None]  # propagates non-finite outputs
        return {"classes": array(predicted.byte()), "size": array(view.meta["size"]), "shares": array(shares)}

    def outcome(self, predictions: Predictions, truth: np.ndarray) -> np.ndarray:
        """truth (N,H,W), mask values -> (N, classes, classes): confusion matrices, pixels by true and predicted class."""
        count = len(self.classes)
        truth = self.numbers.cpu().numpy()[truth]
        counted = truth != IGNORED
        pairs = truth * count + predictions["classes"]
        return np.stack(
            [np.bincount(pair[scored], minlength=count**2).reshape(count, count) for pair, scored in zip(pairs, counted, strict=True)]
        )

    @staticmethod
    def scores(outcome: np.ndarray) -> dict[str, float]:
        """Mean intersection over union of the classes that are present or predicted, and pixel accuracy."""
        confusion = outcome.sum(0)
        hits, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        present = union > 0
        iou = hits[present] / union[present]
        return {"miou": float(iou.mean()) if len(iou) else 0.0, "pixel_accuracy": float(hits.sum() / max(confusion.sum(), 1))}

    def judge(self, predictions: Predictions, truth: np.ndarray) -> float:
        """1 - mIoU."""
        return 1 - self.scores(self.outcome(predictions, truth))["miou"]

    def table(self, predictions: Predictions) -> pyarrow.Table:
        """row, name, and the share of pixels predicted as each class."""
        import pyarrow as pa

        shares = {f"share_{name}": predictions["shares"][:, i].astype(np.float32) for i, name in enumerate(self.classes)}
        return pa.table({"row": predictions["row"], "name": list(predictions["name"]), **shares})

    def files(self, predictions: Predictions) -> list[tuple[str, Any]]:
        """Masks as (image name, PIL image) with the values of the training masks, in the size of the original image."""
        from PIL import Image

        values = np.array(self.values, np.uint8)
        found = zip(predictions["name"], predictions["classes"], predictions["size"], strict=True)
        return [
            (name, Image.fromarray(values[classes]).resize(tuple(size.tolist()), Image.Resampling.NEAREST)) for name, classes, size in found
        ]


def classes_of(found: np.ndarray, binary: bool, ignore: int) -> list[int]:
    """The found values that are classes; for binary masks, 0 and one other."""
    values = [int(value) for value in found if value != ignore]
    if binary and any(values):
        values = [value for value in (0, 255 if values[-1] == 255 else 1) if value != ignore]
    return values


def numbering(values: list[int], binary: bool, ignore: int) -> np.ndarray:
    """(256,) int64: mask value -> class number."""
    numbers = np.full(256, IGNORED, np.int64)
    numbers[values] = np.arange(len(values))
    if binary:
        numbers[1:] = 1
    if 0 <= ignore < 256:
        numbers[ignore] = IGNORED
    return numbers


def class_names(values: list[int], names: str) -> list[str]:
    found = [name.strip() for name in names.split(",")] if names else [str(value) for value in values]
    if len(found) != len(values) or not all(found) or len(set(found)) < len(found):
        raise UserError(f"names={names}: give {len(values)} distinct names, one per class of the masks ({', '.join(map(str, values))})")
    return found


def _checked(facts: Options) -> tuple[list[int], list[list[int]], int]:
    values, shapes, side = (facts.get(name) for name in ("values", "maps", "side"))
    if not isinstance(values, list) or len(values) < 2 or not all(type(value) is int and 0 <= value < 256 for value in values):
        raise UserError(f"its mask values are {str(values)[:40]}; at least two from 0 to 255 are needed")
    kind = Within(1, MOST)
    known = isinstance(shapes, list) and 0 < len(shapes) < 1000 and all(isinstance(shape, list) and len(shape) == 3 for shape in shapes)
    if not known or not all(type(side) is int and side in kind for shape in [*shapes, [side]] for side in shape):  # type: ignore[union-attr]
        raise UserError(f"its maps are {str(shapes)[:40]}; each needs channels, height and width, and the view its side length")
    return values, shapes, side  # type: ignore[return-value]


# ----------------------------------------------------------------------------------------------------------------- heads


def _maps_and_side(encoder: Encoder, view: View) -> tuple[list[Tensor], int]:
    return maps(encoder, view), view.x.shape[-1]


class Linear(nn.Module):
    """The last map (B,D,h,w) -> logits (B,classes,side,side): BatchNorm without weights, one layer, then bilinear upsampling."""

    def __init__(self, width: int, classes: int, normalised: bool) -> None:
        super().__init__()
        self.scores = nn.Conv2d(width, classes, 1)
        self.norm = nn.BatchNorm2d(width, affine=False) if normalised else nn.Identity()

    def forward(self, found: tuple[list[Tensor], int]) -> Tensor:
        found_maps, side = found
        return F.interpolate(self.scores(self.norm(found_maps[-1])), (side, side), mode="bilinear", align_corners=False)


class Convolutions(nn.Module):
    """All maps of at most a quarter of the view's side (or the last) -> logits (B,classes,side,side)."""

    def __init__(self, shapes: list[list[int]], side: int, classes: int) -> None:
        super().__init__()
        self.used = [i for i, (_, height, _) in enumerate(shapes) if STRIDE * height <= side] or [len(shapes) - 1]
        self.same = nn.ModuleList(nn.Sequential(nn.Conv2d(shapes[i][0], WIDTH, 1), nn.GroupNorm(8, WIDTH), nn.ReLU()) for i in self.used)
        self.mix = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GroupNorm(8, WIDTH), nn.ReLU())
        self.scores = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, found: tuple[list[Tensor], int]) -> Tensor:
        read, side = found
        size = read[self.used[0]].shape[-2:]
        same = [
            F.interpolate(one(read[i]), size, mode="bilinear", align_corners=False) for i, one in zip(self.used, self.same, strict=True)
        ]
        return F.interpolate(self.scores(self.mix(torch.stack(same).sum(0))), (side, side), mode="bilinear", align_corners=False)
