"""Memory limits: what a process may take here, and how a child is held to less.

psutil inside a memory cgroup reports the host's memory, so cgroup files are read too. Polling
cannot stop a burst: a hard limit does, a cgroup where one may be made, else RLIMIT_DATA.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from pathlib import Path
from typing import Protocol

import psutil

from tinyfleet.device_profiles.cgroups import (
    CgroupLimit,
    group_and_above,
    group_folder,
    memory_parents,
    own_groups,
    read_number,
    sweep,
)

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes of "300M" (10^6), "1.5G", "256Mi" (2^20) or a plain number. Raises ``ValueError``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", str(text).lower())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"size {text!r}; give a number with K, M, G, Ki, Mi or Gi, as in 300M")
    size = float(match[1]) * _UNITS[match[2]]
    if size >= 2.0**63:
        raise ValueError(f"size {text[:20]!r}... is more than any machine has; give less")
    return round(size)


def format_size(size: float) -> str:
    """A short text, such as 300M."""
    for unit, factor in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g}{unit}"
    return f"{size:.0f}"


# -- what is there ------------------------------------------------------------------------


def cgroup_memory(root: Path = Path("/")) -> tuple[int, int] | None:
    """(limit, used) in bytes of the tightest memory cgroup around this process; None without a limit."""
    groups = own_groups(root)
    tops = [
        (root / "sys/fs/cgroup", groups.get("", "/"), "memory.max", "memory.current"),
        (
            root / "sys/fs/cgroup/memory",
            groups.get("memory", "/"),
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
        ),
    ]
    found: list[tuple[int, int]] = []
    for top, path, limit_name, used_name in tops:
        for folder in group_and_above(top, path):
            limit, used = read_number(folder / limit_name), read_number(folder / used_name)
            # v1 writes "no limit" as a huge number.
            if limit is not None and used is not None and limit < 1 << 60:
                found.append((limit, used))
    return min(found, key=lambda pair: pair[0] - pair[1], default=None)


def _meminfo(root: Path, key: str) -> int | None:
    """A line of /proc/meminfo in bytes (it counts in 1024, whatever its unit says)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((root / "proc/meminfo").read_text(encoding="ascii").split(f"{key}:")[1].split()[0]) * 1024
    return None


def _own_limit() -> int:
    """RLIMIT_DATA of this process in bytes, which its children inherit; huge without one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return 1 << 62 if soft == resource.RLIM_INFINITY else soft


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """Memory that can be had now: what is available on the host, or what a limit here leaves, if that is less."""
    available = min(_own_limit(), _meminfo(root, "MemAvailable") or int(psutil.virtual_memory().available))
    group = cgroup_memory(root)
    return available if group is None else max(0, min(available, group[0] - group[1]))


def total_memory_bytes(root: Path = Path("/")) -> int:
    """The host's memory, or the cgroup's limit or this process's own, if that is less."""
    total = min(_own_limit(), _meminfo(root, "MemTotal") or int(psutil.virtual_memory().total))
    group = cgroup_memory(root)
    return total if group is None else min(total, group[0])


# -- limits on a child ------------------------------------------------------------------------


class MemoryLimit(Protocol):
    """A hard limit on one child process. ``kind`` says which is active."""

    kind: str

    def before_exec(self) -> None:
        """Run in the child between fork and exec."""

    def oom_kills(self) -> int:
        """How often the kernel killed in here."""
        ...

    def close(self) -> None:
        """Give the limit back, once the child has ended."""


class DataLimit:
    """RLIMIT_DATA: private writable memory, allocations fail beyond it (Linux 4.7 and later)."""

    kind = "RLIMIT_DATA"

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes

    def before_exec(self) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (self._limit, self._limit))

    def oom_kills(self) -> int:
        return 0  # allocations fail, nothing is killed

    def close(self) -> None:
        """Nothing to do: it ends with the child."""


def choose_limit(limit_bytes: int, name: str, root: Path = Path("/"), *, whole_tree: bool = False) -> MemoryLimit:
    """The strongest limit that may be set here; ``name`` tells its cgroup from those of other agents.

    ``whole_tree`` as in ``CgroupLimit``. Raises ``ValueError`` for a limit that is not positive.
    """
    if limit_bytes <= 0:
        raise ValueError(f"memory limit {limit_bytes} is not positive; leave it out for no limit")
    for parent, version in memory_parents(root):
        if os.access(parent, os.W_OK):
            sweep(parent)
            with contextlib.suppress(OSError):
                return CgroupLimit(group_folder(parent, name), limit_bytes, version, whole_tree=whole_tree)
    return DataLimit(limit_bytes)
