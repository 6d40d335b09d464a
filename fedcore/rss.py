"""Resident memory of this process, as the kernel counts it (proc(5))."""

from __future__ import annotations

from pathlib import Path

from fedcore.errors import DataError


def resident_bytes() -> int:
    """What is resident now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since the process began, or since ``reset_peak``."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Begin the peak anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise DataError(f"/proc/self/status has no {key}: this kernel cannot tell a process's memory")
