"""A data set whose scores are known: what leaks between its parts changes them by far more than a tolerance.

Every training image has one bright place of its own, and a class drawn without regard to it, so that nothing can be told of one
from the others. Test images are copies of training images, and 30% of their labels are those of the originals. Validation
images are copies whose labels are all the originals'. By neighbours or a linear probe, then, the training part taken for the test
part gives 100%, the validation part 100%, and a right measurement 30%, of pixels and of any encoder that keeps images apart.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from torch import Tensor, nn

from untaught.core import Encoder, Features, Modality, Preprocessor, View
from untaught.modalities.image import IMAGE
from untaught.pipeline.dataset import Dataset, open_dataset

SIDE, CLASSES = 16, 3
TRAIN, VAL, TEST = 150, 60, 60
RIGHT = 0.3
KEPT = {"train": range(150), "val": range(150, 210), "test": range(210, 270)}  # the numbers of the rows


def planted(val: int = VAL) -> pd.DataFrame:
    """Columns image (16,16) uint8, label and split, of 150 training, `val` validation and 60 test rows."""
    random = np.random.default_rng(0)
    bright = random.permutation(SIDE * SIDE)[:TRAIN]
    labels = random.permutation(np.arange(TRAIN) % CLASSES)
    copied = np.concatenate([np.arange(TRAIN), random.permutation(TRAIN)[:val], random.permutation(TRAIN)[:TEST]])
    told = labels[copied].copy()
    wrong = random.permutation(TEST)[round(TEST * RIGHT) :] + TRAIN + val
    told[wrong] = (told[wrong] + 1) % CLASSES
    pixels = np.zeros((len(copied), SIDE * SIDE), np.uint8)
    pixels[np.arange(len(copied)), bright[copied]] = 255
    split = ["train"] * TRAIN + ["val"] * val + ["test"] * TEST
    names = np.array(["a", "b", "c"])[told]
    return pd.DataFrame({"image": list(pixels.reshape(-1, SIDE, SIDE)), "label": names, "split": split})


def dataset(frame: pd.DataFrame, seed: int = 0, reading: Modality | Preprocessor = IMAGE) -> Dataset:
    """The frame, packed and cut into its parts."""
    found = open_dataset(frame, reading, columns=None, label="label", split="split" if "split" in frame else None)
    found.open(False, seed)
    return found


class Pixels(Encoder):
    """x (B,1,16,16) -> (B,256), and what it was shown."""

    width = SIDE * SIDE

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def features(self, view: View, want: tuple[str, ...] = ("pooled",)) -> Features:
        self.shown.append(view.x)
        return Features(pooled=view.x.flatten(1))


def flat() -> nn.Module:
    """As Pixels, a module of the user's own."""
    return nn.Flatten()
