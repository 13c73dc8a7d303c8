"""Machines without a home: a container run as a user that nobody entered, a home that is read-only. Imports nothing heavy."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

KEPT_AT_HOME = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "HF_DATASETS_CACHE": "datasets",
    "HF_MODULES_CACHE": "modules",
}


def cache_folder() -> Path:
    """UNTAUGHT_CACHE, else in the home, or in what stands in for it among temporary files."""
    if given := os.environ.get("UNTAUGHT_CACHE"):
        return Path(given).expanduser() if home() else Path(given)
    return (home() or _stand_in()) / ".cache" / "untaught"


def home() -> Path | None:
    """The user's own folder; None where neither HOME nor the table of users names one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def settle() -> None:
    """What libraries keep at home is kept elsewhere where that can't be, in our cache if it is named; what the user has set stays."""
    own = home()
    if own is None:
        os.environ["HOME"] = os.environ.get("UNTAUGHT_CACHE") or str(_stand_in())
        os.environ.setdefault("USER", str(os.getuid()))  # torch's compiler asks the table of users for the name
    elif not os.access(own, os.W_OK):
        for name, folder in KEPT_AT_HOME.items():
            os.environ.setdefault(name, str(cache_folder() / folder))
        if not (own / ".cache" / "huggingface").exists():
            os.environ.setdefault("HF_HOME", str(cache_folder() / "huggingface"))


def ask_for_huge_pages() -> None:
    """Of torch's allocator, which looks once: only before torch is imported. The user's own setting stays."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _stand_in() -> Path:
    """A folder that is this user's alone, the same for all processes unless someone else has taken its name."""
    place = Path(tempfile.gettempdir()) / f"untaught-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    found = place.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return place if ours else Path(tempfile.mkdtemp(prefix="untaught-"))
