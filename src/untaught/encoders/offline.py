"""Offline mode for loading untrusted model folders."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

COUNT = threading.Lock()
INSIDE: list[bool] = []
BEFORE: list[bool] = []


@contextmanager
def offline() -> Iterator[None]:
    """Within it, the Hugging Face hub is not contacted. timm and transformers would look there for anything missing from a folder."""
    from huggingface_hub import constants

    with COUNT:  # with several threads, the last one to leave restores it
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
