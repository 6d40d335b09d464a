"""Under systemd with ``Delegate=yes``: make room for the worker's cgroup below the unit's own.

Cgroup v2 lets a group hand its controllers to child groups only while it holds no process itself, so the
supervisor first moves into a leaf (cgroups(7), "no internal processes").
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

LEAF = "supervisor"
_WANTED = ("memory", "cpu")


def take_leaf(environment: Mapping[str, str], root: Path = Path("/")) -> bool:
    """Move this process into the leaf and hand memory and CPU time on; True where that was done.

    Only in a unit of systemd's (``INVOCATION_ID``), alone in its group, and where the group is ours to
    write: anything else is left as it is, and the worker's limits are then of another kind.
    """
    group = _unit_group(environment, root)
    if group is None:
        return False
    try:
        alone = (group / "cgroup.procs").read_text(encoding="ascii").split() == [str(os.getpid())]
        offered = (group / "cgroup.controllers").read_text(encoding="ascii").split()
        wanted = [f"+{name}" for name in _WANTED if name in offered]
        if not alone or not wanted:
            return False
        leaf = group / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        _hand_on(group, wanted)
    except OSError as error:
        logger.info("no cgroup of our own (%s)", error)
        return False
    return True


def _hand_on(group: Path, wanted: list[str]) -> None:
    """All of ``wanted``, else the first: the kernel keeps CPU time back while the unit runs real-time processes."""
    control = group / "cgroup.subtree_control"
    try:
        control.write_text(" ".join(wanted), encoding="ascii")
    except OSError:
        if len(wanted) == 1:
            raise
        control.write_text(wanted[0], encoding="ascii")


def _unit_group(environment: Mapping[str, str], root: Path) -> Path | None:
    """The cgroup v2 folder of the systemd service that this process is, or None."""
    if "INVOCATION_ID" not in environment:
        return None
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        number, _, path = line.split(":", 2)
        if number == "0" and path.endswith(".service"):
            return root / "sys/fs/cgroup" / path.lstrip("/")
    return None
