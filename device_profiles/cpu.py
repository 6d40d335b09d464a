"""What of the processor a child may take: which cores, what share of their time, and how much it yields to others.

None of it guards the board as a memory limit does: what cannot be had is left out, and said.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from tinyfleet.device_profiles.cgroups import choose_quota
from tinyfleet.device_profiles.cores import cpu_quota, usable_cores

logger = logging.getLogger(__name__)

IoPriority = Literal["idle", "best-effort", "none"]
_LOWEST_BEST_EFFORT = 7  # of the levels 0 to 7: ioprio_set(2)


@dataclass(frozen=True, slots=True)
class CpuLimits:
    """For one child; the defaults take nothing from it. ``nice`` is added to that of this process."""

    cores: tuple[int, ...] = ()  # empty: all that this process may use
    share: float = 0.0  # of the time of those cores together; 0: all of it
    nice: int = 0
    io_priority: IoPriority = "none"

    def missing(self) -> list[int]:
        """Those of ``cores`` that this process may not use, or that are not there."""
        return sorted(set(self.cores) - os.sched_getaffinity(0))

    def quota(self, root: Path = Path("/")) -> float:
        """CPU seconds a second; 0: no quota. A quota around this process counts as all there is to share."""
        if not 0.0 < self.share < 1.0:
            return 0.0
        return self.share * min(self._count(), cpu_quota(root) or math.inf)

    def threads(self) -> int:
        """As many as there are cores, or parts of cores, for."""
        cores = min(self._count(), usable_cores())
        # Rounded, since 0.1 * 30 is more than 3.
        return max(1, math.ceil(round(self.share * cores, 6))) if self.share else cores

    def _count(self) -> int:
        return len(set(self.cores)) or len(os.sched_getaffinity(0))


class CpuHold:
    """``limits`` on one child. A quota stands in the v2 group of its ``memory`` limit, or in a group of its own."""

    def __init__(self, limits: CpuLimits, memory: object, name: str, root: Path = Path("/")) -> None:
        self._limits = limits
        self._wanted = limits.quota(root)
        self._quota = choose_quota(self._wanted, memory, name, root, nice=limits.nice) if self._wanted else None

    def before_exec(self) -> None:
        """Run in the child between fork and exec. What is refused is left out; ``told`` finds out."""
        limits = self._limits
        if limits.cores:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, limits.cores)
        with contextlib.suppress(OSError):
            os.nice(limits.nice)
        with contextlib.suppress(OSError, psutil.Error):
            if limits.io_priority == "idle":
                psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
            elif limits.io_priority == "best-effort":
                psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, _LOWEST_BEST_EFFORT)
        if self._quota is not None:
            with contextlib.suppress(OSError):
                self._quota.before_exec()

    def describe(self, pid: int) -> str:
        """What holds the child that was started, in words, from the kernel. Warns once where no quota does."""
        parts = []
        with contextlib.suppress(psutil.Error):  # ended already
            child = psutil.Process(pid)
            parts.append(f"{len(child.cpu_affinity())} of {os.cpu_count()} cores")
            parts += [f"nice {child.nice()}", f"io {_io_class(child)}"]
        if self._wanted:
            share = f"{100 * self._limits.share:.3g} %"
            if self._quota is not None and self._quota.holds(pid):
                quota = f"{share} by {self._quota.kind}"
            else:
                quota = f"{share} not held"
                _warn_once(
                    f"no CPU quota can be set here (limits.cpu_share {self._limits.share:g}): no cpu cgroup may be "
                    "made; run the agent by systemd with Delegate=yes, or as root, or set limits.cores"
                )
            parts.insert(1, quota)
        return ", ".join(parts) or "unknown"

    def close(self) -> None:
        """Give the group back, once the child has ended."""
        if self._quota is not None:
            self._quota.close()


def _io_class(child: psutil.Process) -> str:
    """I/O class in ``IoPriority``'s words, or "realtime", which only the agent's own can be."""
    names = {
        psutil.IOPRIO_CLASS_NONE: "none",
        psutil.IOPRIO_CLASS_RT: "realtime",
        psutil.IOPRIO_CLASS_BE: "best-effort",
        psutil.IOPRIO_CLASS_IDLE: "idle",
    }
    return names.get(child.ionice().ioclass, "unknown")


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
