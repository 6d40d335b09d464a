"""Control groups, v1 and v2: which are around this process, and one of its own for a child."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from pathlib import Path

PREFIX = "tinyfleet-"
LEAF = "command"
PERIOD_US = 100_000
NICE_STEP = 1.25  # what one step of niceness divides the kernel's weight of a process by
V1_MEMORY = "memory.limit_in_bytes"
V1_MEMORY_AND_SWAP = "memory.memsw.limit_in_bytes"


def read_number(path: Path) -> int | None:
    """A file's number; None where it is absent, or the word "max"."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def own_groups(root: Path) -> dict[str, str]:
    """Cgroup path of this process by controller; "" is v2."""
    groups: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                groups[controller] = path
    return groups


def group_and_above(top: Path, path: str) -> list[Path]:
    """The folder of cgroup ``path`` in the hierarchy mounted at ``top``, and those around it; each may limit."""
    folder = top / path.strip("/")
    return [folder, *(above for above in folder.parents if above.is_relative_to(top))]


class CgroupLimit:
    """A memory cgroup of its own, v1 or v2; the kernel kills inside it, swap included in the limit.

    ``whole_tree``: for a program that makes such groups itself. Theirs count inside this one, the kernel kills
    one process as it would on a whole machine, and ``close`` ends every process that is left.
    """

    def __init__(self, folder: Path, limit_bytes: int, version: int, *, whole_tree: bool = False) -> None:
        self.kind = f"cgroup v{version}"
        self.folder, self.version = folder, version
        # Whether swap is held too: the kernel may count none.
        self.holds_swap = False
        self._whole_tree = whole_tree
        self._home = folder
        folder.mkdir()
        try:
            self._set(limit_bytes)
        except OSError:
            _remove(folder)
            raise

    def _set(self, limit_bytes: int) -> None:
        folder = self.folder
        names = ("memory.max", "memory.swap.max") if self.version == 2 else (V1_MEMORY, V1_MEMORY_AND_SWAP)
        (folder / names[0]).write_text(str(limit_bytes))
        with contextlib.suppress(OSError):
            (folder / names[1]).write_text("0" if self.version == 2 else str(limit_bytes))
            self.holds_swap = True
        if self.version == 2 and self._whole_tree:
            # A group that hands memory on holds no process itself, and only one that does is found by
            # memory_parents: without the leaf, a group made inside would be made beside this one.
            (folder / "cgroup.subtree_control").write_text("+memory")
            self._home = folder / LEAF
            self._home.mkdir()
        elif self.version == 2:
            with contextlib.suppress(OSError):
                (folder / "memory.oom.group").write_text("1")

    def before_exec(self) -> None:
        # In the child itself: nothing that it allocates escapes the limit.
        (self._home / "cgroup.procs").write_text(str(os.getpid()))

    def oom_kills(self) -> int:
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self.folder / name).read_text(encoding="ascii").splitlines():
                word, _, number = line.partition(" ")
                if word == "oom_kill":
                    return int(number)
        return 0

    def close(self) -> None:
        _end(self.folder, kill=self._whole_tree)


class CpuQuota:
    """CPU time for a tree of processes: ``cores`` seconds a second, all its threads together.

    A group of its own, which weighs as much as one process of niceness ``nice`` (inside a group, a process's own
    counts among its neighbours there alone); or with ``own`` false a line in the v2 memory group of the tree.
    """

    def __init__(self, folder: Path, cores: float, version: int, *, own: bool = True, nice: int = 0) -> None:
        self.kind = f"cgroup v{version}"
        self._folder, self._own = folder, own
        if own:
            folder.mkdir()
        try:
            self._set(cores, version, nice)
        except OSError:
            self.close()
            raise

    def _set(self, cores: float, version: int, nice: int) -> None:
        quota_us = max(1000, round(cores * PERIOD_US))  # the kernel takes no less than a millisecond
        if version == 2:
            (self._folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (self._folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        name, usual = ("cpu.weight", 100) if version == 2 else ("cpu.shares", 1024)
        with contextlib.suppress(OSError):
            (self._folder / name).write_text(str(max(1, round(usual * NICE_STEP**-nice))))

    def before_exec(self) -> None:
        """Run in the child between fork and exec."""
        if self._own:
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def holds(self, pid: int) -> bool:
        """Whether a process is in the group; for one in a memory group, that limit tells."""
        if not self._own:
            return True
        with contextlib.suppress(OSError):
            return str(pid) in (self._folder / "cgroup.procs").read_text(encoding="ascii").split()
        return False

    def close(self) -> None:
        """End what is left in the group and remove it; a memory group is its limit's to remove."""
        if self._own:
            _end(self._folder, kill=True)


def choose_quota(
    cores: float, memory: object, name: str, root: Path = Path("/"), *, nice: int = 0
) -> CpuQuota | None:
    """A quota in ``memory``'s group (v2), in a group of its own, or None where none may be set."""
    in_v2 = isinstance(memory, CgroupLimit) and memory.version == 2
    if isinstance(memory, CgroupLimit) and in_v2:
        with contextlib.suppress(OSError):
            return CpuQuota(memory.folder, cores, 2, own=False, nice=nice)
    for parent, version in _cpu_parents(root):
        # A process is in one v2 group only: where its memory is, if that is one.
        if os.access(parent, os.W_OK) and not (in_v2 and version == 2):
            sweep(parent)
            with contextlib.suppress(OSError):
                return CpuQuota(group_folder(parent, name), cores, version, nice=nice)
    return None


def group_folder(parent: Path, name: str) -> Path:
    """Where a new group of this process goes; the owner's process id at its end lets ``sweep`` find orphans."""
    safe = re.sub(r"[^a-z0-9-]", "-", name.lower())[:40]
    return parent / f"{PREFIX}{safe}-{time.monotonic_ns()}-{os.getpid()}"


def _end(folder: Path, *, kill: bool) -> None:
    """Remove a group. The kernel needs a moment to let go of one whose last process has just ended."""
    for _ in range(50):
        if kill:
            for procs in folder.rglob("cgroup.procs"):
                with contextlib.suppress(OSError, ValueError):
                    for pid in filter(None, map(int, procs.read_text(encoding="ascii").split())):
                        os.kill(pid, signal.SIGKILL)
        if _remove(folder):
            return
        time.sleep(0.01)


def _remove(folder: Path) -> bool:
    """Remove a group and the groups in it; False where one is in use."""
    try:
        for inner in folder.iterdir():
            if inner.is_dir():
                _remove(inner)
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def memory_parents(root: Path) -> list[tuple[Path, int]]:
    """Folders in which a memory cgroup might be made, the process's own first."""
    return _parents(root, "memory", "memory.limit_in_bytes")


def _cpu_parents(root: Path) -> list[tuple[Path, int]]:
    """Folders in which a group with a CPU quota might be made."""
    return _parents(root, "cpu", "cpu.cfs_quota_us")


def _parents(root: Path, controller: str, v1_file: str) -> list[tuple[Path, int]]:
    groups = own_groups(root)
    found = []
    v2 = root / "sys/fs/cgroup"
    if (v2 / "cgroup.controllers").exists() and "" in groups:
        own = v2 / groups[""].strip("/")
        # A group with processes in it cannot hand its controllers to children: a delegated unit puts the
        # agent into a leaf and leaves the level above to us.
        found += [(folder, 2) for folder in (own, own.parent) if _hands_on(folder, controller)]
    v1 = root / "sys/fs/cgroup" / controller
    if controller in groups:
        own = v1 / groups[controller].strip("/")
        if (v1 / v1_file).exists() or (own / v1_file).exists():
            found.append((own, 1))
    return found


def _hands_on(folder: Path, controller: str) -> bool:
    with contextlib.suppress(OSError):
        return controller in (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return False


def sweep(parent: Path) -> None:
    """Remove empty groups whose makers are gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.rsplit("-", 1)[-1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _remove(folder)
