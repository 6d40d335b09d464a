"""Control groups, v1 and v2: which are around this process, and one of its own for a child."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

PREFIX = "tinyfleet-"


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
    """A memory cgroup of its own, v1 or v2; the kernel kills inside it, swap included in the limit."""

    def __init__(self, folder: Path, limit_bytes: int, version: int) -> None:
        self.kind = f"cgroup v{version}"
        self._folder, self._version = folder, version
        folder.mkdir()
        try:
            if version == 2:
                (folder / "memory.max").write_text(str(limit_bytes))
                with contextlib.suppress(OSError):
                    (folder / "memory.swap.max").write_text("0")
                with contextlib.suppress(OSError):
                    (folder / "memory.oom.group").write_text("1")
            else:
                (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
                with contextlib.suppress(OSError):
                    (folder / "memory.memsw.limit_in_bytes").write_text(str(limit_bytes))
        except OSError:
            folder.rmdir()
            raise

    def before_exec(self) -> None:
        # In the child itself: nothing that it allocates escapes the limit.
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def attach(self, pid: int) -> None:
        """Nothing to do: the child went in by itself."""

    def oom_kills(self) -> int:
        name = "memory.events" if self._version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self._folder / name).read_text(encoding="ascii").splitlines():
                word, _, number = line.partition(" ")
                if word == "oom_kill":
                    return int(number)
        return 0

    def close(self) -> None:
        # The kernel needs a moment to let go of a group whose last process has just ended.
        for _ in range(50):
            try:
                self._folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.01)


def memory_parents(root: Path) -> list[tuple[Path, int]]:
    """Folders in which a memory cgroup might be made, the process's own first."""
    groups = own_groups(root)
    found = []
    v2 = root / "sys/fs/cgroup"
    if (v2 / "cgroup.controllers").exists() and "" in groups:
        own = v2 / groups[""].strip("/")
        # A group with processes in it cannot hand its memory to children: a delegated unit puts the
        # agent into a leaf and leaves the level above to us.
        found += [(folder, 2) for folder in (own, own.parent) if _hands_memory_on(folder)]
    v1 = root / "sys/fs/cgroup/memory"
    if (v1 / "memory.limit_in_bytes").exists() and "memory" in groups:
        found.append((v1 / groups["memory"].strip("/"), 1))
    return found


def _hands_memory_on(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return "memory" in (folder / "cgroup.subtree_control").read_text(encoding="ascii").split()
    return False


def sweep(parent: Path) -> None:
    """Remove empty groups whose makers are gone."""
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.rsplit("-", 1)[-1]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
