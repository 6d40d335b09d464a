"""What a Jetson's GPU driver holds for a process: out of the board's one pool, and past its resident set."""

from __future__ import annotations

import contextlib
from collections.abc import Container
from pathlib import Path

# Lines such as ``user  python3  4711  123456K``; readable by root alone.
_CLIENTS = "sys/kernel/debug/nvmap/iovmm/clients"
_UNITS = {"K": 1024, "M": 1024**2, "B": 1}


def gpu_bytes(pids: Container[int], root: Path = Path("/")) -> int:
    """Bytes that these processes hold through nvmap; 0 on boards without it, or where it cannot be read."""
    total = 0
    with contextlib.suppress(OSError):
        for line in (root / _CLIENTS).read_text(encoding="ascii", errors="replace").splitlines():
            words = line.split()
            with contextlib.suppress(ValueError, IndexError, KeyError):
                if words[0] == "user" and int(words[-2]) in pids:  # a process's name may hold spaces
                    total += int(words[-1][:-1]) * _UNITS[words[-1][-1]]
    return total
