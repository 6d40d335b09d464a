"""Which board this is: from the device tree, else from the processor."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import replace
from pathlib import Path

from tinyfleet.device_profiles.cores import usable_cores
from tinyfleet.device_profiles.emulated import emulated_board, sysfs_root
from tinyfleet.device_profiles.known_boards import board, known
from tinyfleet.device_profiles.limits import total_memory_bytes
from tinyfleet.device_profiles.profile import DeviceProfile

DEVICE_TREE = "sys/firmware/devicetree/base"


def compatible_strings(root: Path = Path("/")) -> tuple[str, ...]:
    """The device tree's ``compatible`` list, most specific first; empty where there is no device tree."""
    with contextlib.suppress(OSError):
        raw = (root / DEVICE_TREE / "compatible").read_bytes()
        return tuple(part.decode("ascii", "replace") for part in raw.split(b"\0") if part)
    return ()


def detect(root: Path | None = None) -> DeviceProfile:
    """The profile of this board, with the memory and cores that are really here.

    A board that is not shipped, or no board at all, is ``generic``. Without ``root`` the environment is asked for
    an emulated board (``emulated.py``) and for a faked root, and raises ``ProfileError`` if it names
    a board that is unknown.
    """
    if root is None:
        emulated = emulated_board()
        if emulated is not None:
            return replace(
                emulated,
                title=f"{emulated.title} (emulated)",
                memory_bytes=min(emulated.memory_bytes, total_memory_bytes()),
                cores=min(emulated.cores, usable_cores()),
            )
        root = sysfs_root()
    words = compatible_strings(root)
    profiles = known().values() if words else ()
    matches = (profile for word in words for profile in profiles if word in profile.compatible)
    found = next(matches, None) or board("generic")
    memory, cores = total_memory_bytes(root), usable_cores(root)
    if found.name != "generic":
        return replace(found, memory_bytes=memory, cores=cores)
    title = _model(root) or "generic computer"
    return replace(
        found,
        title=title,
        cpu=_cpu_name(root) or found.cpu,
        architecture=platform.machine(),
        memory_bytes=memory,
        cores=cores,
    )


def _model(root: Path) -> str:
    with contextlib.suppress(OSError):
        return (root / DEVICE_TREE / "model").read_bytes().rstrip(b"\0").decode("utf-8", "replace")
    return ""


def _cpu_name(root: Path) -> str:
    with contextlib.suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return ""
