"""What the watcher reads of processes, twenty times a second at worst: small files, a third of psutil's cost."""

from __future__ import annotations

import math
import os
import resource

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LONGEST = 4096  # bytes; some five hundred children


def memory_of(pid: int) -> tuple[int, int]:
    """(resident, data) in bytes, proc(5) statm; zero for a process that has ended."""
    words = _words(f"/proc/{pid}/statm")
    return (int(words[1]) * _PAGE_BYTES, int(words[5]) * _PAGE_BYTES) if len(words) > 5 else (0, 0)


def data_limit_of(pid: int) -> float:
    """RLIMIT_DATA in bytes, as the process itself may have lowered it; infinite without one, or at its end."""
    try:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_DATA)
    except OSError:
        return math.inf
    return math.inf if soft == resource.RLIM_INFINITY else soft


def children_of(pid: int) -> list[int]:
    """Direct children; none where the kernel does not list them, or the process has ended."""
    return [int(word) for word in _words(f"/proc/{pid}/task/{pid}/children")]


def _words(path: str) -> list[bytes]:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(file, _LONGEST).split()
    except OSError:  # it ended meanwhile
        return []
    finally:
        os.close(file)
