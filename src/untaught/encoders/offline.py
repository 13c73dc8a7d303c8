"""Opening a folder that someone else may have made: without the network, whatever the folder says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def offline() -> Iterator[None]:
    """Inside, the Hugging Face hub is not asked: timm and transformers look there for whatever a folder names and does not hold."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
