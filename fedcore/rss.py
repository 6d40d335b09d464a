"""Memory of a process, this one unless told otherwise, as the kernel counts it (proc(5))."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.fedcore.errors import DataError

_SELF = Path("/proc/self/status")


def resident_bytes() -> int:
    """What is resident now. Raises ``DataError`` where the kernel does not say."""
    return _known("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since the process began, or since ``reset_peak``.

    Raises ``DataError`` where the kernel does not say.
    """
    return _known("VmHWM")


def reset_peak() -> None:
    """Begin the peak anew. Raises ``OSError`` where that is refused, as in some containers."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status_bytes(field: str, status: Path = _SELF) -> int | None:
    """A size in a process's status file; None where the file has no such field, as a zombie's."""
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _known(field: str) -> int:
    found = status_bytes(field)
    if found is None:
        raise DataError(f"{_SELF} has no {field}: this kernel cannot tell a process's memory")
    return found
