"""Resident memory of the demo's processes, read from outside."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from tinyfleet.fedcore.rss import status_bytes


def rss_bytes(pid: int) -> int | None:
    """Resident memory of one process now; None where it is gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def peak_rss_bytes(pid: int, root: Path = Path("/")) -> int | None:
    """The most that a process ever held: the kernel's own record (VmHWM), else what it holds now."""
    with contextlib.suppress(OSError, ValueError):
        peak = status_bytes("VmHWM", root / "proc" / str(pid) / "status")
        if peak is not None:
            return peak
    return rss_bytes(pid)


class PeakWatch:
    """Peaks of processes and of their children; ``sample`` often enough to see each child once before it ends."""

    def __init__(self) -> None:
        self.own: dict[str, int] = {}
        self.children: dict[str, int] = {}

    def sample(self, name: str, pid: int) -> None:
        """Look at one process and its children."""
        self._raise(self.own, name, peak_rss_bytes(pid))
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(pid).children(recursive=True):
                self._raise(self.children, name, peak_rss_bytes(child.pid))

    @staticmethod
    def _raise(peaks: dict[str, int], name: str, value: int | None) -> None:
        if value is not None:
            peaks[name] = max(peaks.get(name, 0), value)
