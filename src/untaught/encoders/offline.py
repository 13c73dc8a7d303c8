"""Opening a folder that someone else may have made: without the network, whatever the folder says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

COUNT = threading.Lock()
INSIDE: list[bool] = []
BEFORE: list[bool] = []


@contextmanager
def offline() -> Iterator[None]:
    """Inside, the Hugging Face hub is not asked: timm and transformers look there for whatever a folder names and does not hold."""
    from huggingface_hub import constants

    with COUNT:  # of several threads, the last one out puts it back
        if not INSIDE:
            BEFORE[:] = [constants.HF_HUB_OFFLINE]
        INSIDE.append(True)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        with COUNT:
            INSIDE.pop()
            if not INSIDE:
                (constants.HF_HUB_OFFLINE,) = BEFORE
