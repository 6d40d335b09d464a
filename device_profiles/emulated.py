"""Environment variables that tell a program which board is emulated around it: for tests, not for boards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyfleet.device_profiles.profile import DeviceProfile

# The profile that detection is to find, whatever the machine is.
BOARD_VARIABLE = "TINYFLEET_EMULATED_BOARD"
# Where /sys (and /proc, if it is there) are read in place of the real ones.
ROOT_VARIABLE = "TINYFLEET_SYSFS_ROOT"


def is_emulated(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a board is emulated around this process."""
    return bool(environment.get(BOARD_VARIABLE))


def emulated_board(environment: Mapping[str, str] = os.environ) -> DeviceProfile | None:
    """The board that is emulated around this process, or None. Raises ``ProfileError`` for an unknown name."""
    from tinyfleet.device_profiles.known_boards import board  # profiles are much for who asks only for the root

    name = environment.get(BOARD_VARIABLE)
    return board(name, f"{BOARD_VARIABLE}: ") if name else None


def sysfs_root(environment: Mapping[str, str] = os.environ) -> Path:
    """The root below which the board's files are read: ``/``, unless they are faked."""
    return Path(environment.get(ROOT_VARIABLE) or "/")
