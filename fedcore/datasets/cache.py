"""Where downloaded and decoded data is kept."""

from __future__ import annotations

import os
from pathlib import Path

_NOWHERE = Path("/dev/null/tinyfleet")  # where nothing can be kept


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/tinyfleet``, else ``~/.cache/tinyfleet``; without a home, where nothing can be kept."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "tinyfleet"
    try:
        return Path.home() / ".cache" / "tinyfleet"
    except RuntimeError:  # a service's user may have no home
        return _NOWHERE
