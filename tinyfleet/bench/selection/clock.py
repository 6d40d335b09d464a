"""How long a task takes on an emulated board: a model, not a measurement of any board.

Speeds follow the shipped profiles (cores, clock, processor), as ``coordinator.selection.speed`` reads them. A board
differs from its profile by a factor of its own, which the coordinator is not told, and each task from the last.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tinyfleet.coordinator.selection.speed import training_gflops
from tinyfleet.device_profiles.profile import shipped
from tinyfleet.fedcore.errors import ConfigError

BOARDS = ("pi-zero-2w", "pi-3b-plus", "pi-4b", "pi-5", "jetson-nano")

# Assumed links in bytes a second, Wi-Fi except for the Nano: 2.4 GHz only, then 5 GHz, then Ethernet.
_LINKS = {"pi-zero-2w": 2e6, "pi-3b-plus": 6e6, "pi-4b": 10e6, "pi-5": 10e6, "jetson-nano": 40e6}
_LINK = 10e6

START_S = 0.3  # assumed: messages, decoding, a warm worker's data
BOARD_SPREAD, TASK_SPREAD = 0.2, 0.1  # standard deviations of the logarithms of both factors

MODEL = (BOARDS, sorted(_LINKS.items()), START_S, BOARD_SPREAD, TASK_SPREAD)
"""All that decides a clock, apart from the shipped profiles."""


@dataclass(slots=True)
class EmulatedBoard:
    """One device's clock."""

    device: str
    board: str
    gflops: float  # of training, in truth
    link: float  # bytes a second
    rng: np.random.Generator = field(repr=False)
    profile: dict[str, Any] = field(repr=False)  # what it tells the coordinator

    def training_s(self, flops: float) -> float:
        """Seconds of one task's training."""
        return flops / (self.gflops * 1e9) * math.exp(self.rng.normal(0.0, TASK_SPREAD))

    def overhead_s(self, size: int) -> float:
        """Seconds of everything else, with so many bytes on the wire."""
        return START_S + size / self.link


def mixed_fleet(count: int, seed: int) -> list[EmulatedBoard]:
    """``count`` devices, each kind of board as often as any other. Raises ``ConfigError`` for none."""
    if count < 1:
        raise ConfigError(f"a fleet of {count} devices; give one at least")
    profiles = shipped()
    fleet = []
    for index in range(count):
        board = BOARDS[index % len(BOARDS)]
        rng = np.random.default_rng([seed, 7, index])
        profile = asdict(profiles[board])
        speed = training_gflops(profile)
        if speed is None:
            raise AssertionError(f"the profile of {board} has no speed")
        gflops = speed[0] * math.exp(rng.normal(0.0, BOARD_SPREAD))
        name = f"{board}-{index // len(BOARDS)}"
        fleet.append(EmulatedBoard(name, board, gflops, _LINKS.get(board, _LINK), rng, profile))
    return fleet
