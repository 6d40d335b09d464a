"""How many cores a process may use. Light: the agent's supervisor has it, and no profile of a board with it."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from tinyfleet.device_profiles.cgroups import group_and_above, own_groups
from tinyfleet.device_profiles.emulated import is_emulated


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: affinity, and a cgroup's CPU quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    if root == Path("/") and is_emulated():
        return cores  # the quota stands for slow cores then, not for few
    quota = cpu_quota(root)
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the tightest group around this process leaves; None without a limit."""
    groups = own_groups(root)
    quotas = []
    for folder in group_and_above(root / "sys/fs/cgroup", groups.get("", "/")):
        with contextlib.suppress(OSError, ValueError):  # "max 100000" is no limit
            limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            quotas.append(int(limit) / int(period))
    for folder in group_and_above(root / "sys/fs/cgroup/cpu", groups.get("cpu", "/")):
        with contextlib.suppress(OSError, ValueError):
            limit_us = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
            period_us = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
            if limit_us > 0:  # -1 is no limit
                quotas.append(limit_us / period_us)
    return min(quotas, default=None)
