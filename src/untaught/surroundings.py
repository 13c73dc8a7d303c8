"""Machines without a usable home folder: containers with an unknown user, read-only homes. Imports nothing heavy."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

CACHE: ContextVar[Path | None] = ContextVar("cache", default=None)  # set by `cache_in`
KEPT_AT_HOME = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "HF_DATASETS_CACHE": "datasets",
    "HF_MODULES_CACHE": "modules",
}


def cache_folder() -> Path:
    """That of `cache_in`, else UNTAUGHT_CACHE, else .cache/untaught in the home folder or its temporary replacement."""
    if (own := CACHE.get()) is not None:
        return own
    if given := os.environ.get("UNTAUGHT_CACHE"):
        return Path(given).expanduser() if home() else Path(given)
    return (home() or _stand_in()) / ".cache" / "untaught"


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """Context in which this thread caches in another folder: data that must not stay on the disk."""
    before = CACHE.set(folder)
    try:
        yield
    finally:
        CACHE.reset(before)


def home() -> Path | None:
    """The user's home folder; None if neither HOME nor the user database has one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def settle() -> None:
    """Redirects libraries' caches if the home folder is missing or read-only, to our cache if it is set; the user's settings are kept."""
    own = home()
    if own is None:
        os.environ["HOME"] = os.environ.get("UNTAUGHT_CACHE") or str(_stand_in())
        os.environ.setdefault("USER", str(os.getuid()))  # torch's compiler looks up the user name
    elif not os.access(own, os.W_OK):
        for name, folder in KEPT_AT_HOME.items():
            os.environ.setdefault(name, str(cache_folder() / folder))
        if not (own / ".cache" / "huggingface").exists():
            os.environ.setdefault("HF_HOME", str(cache_folder() / "huggingface"))


def ask_for_huge_pages() -> None:
    """Enables huge pages in torch's allocator. Works only before torch is imported; the user's setting is kept."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _stand_in() -> Path:
    """A private temporary folder, the same for all processes of the user unless another user has taken its name."""
    place = Path(tempfile.gettempdir()) / f"untaught-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return place if ours else Path(tempfile.mkdtemp(prefix="untaught-"))
