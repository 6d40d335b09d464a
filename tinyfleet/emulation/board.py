"""What a board leaves a program, as limits for a process tree on this machine; and what no limit can emulate."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import psutil

from tinyfleet.device_profiles.cores import usable_cores
from tinyfleet.device_profiles.known_boards import board as board_called
from tinyfleet.device_profiles.limits import format_size, total_memory_bytes
from tinyfleet.device_profiles.measuring.measure import gflops_apart
from tinyfleet.device_profiles.profile import DeviceProfile
from tinyfleet.fedcore.errors import ConfigError

# Of a board's memory, what firmware, kernel and services leave: an estimate, until a board is measured.
USABLE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that emulates. 0: not known."""

    cores: int
    memory_bytes: int
    clock_mhz: float = 0.0
    convolution_gflops: float = 0.0  # one thread, by the engine with which the board was measured


@dataclass(frozen=True, slots=True)
class EmulatedLimits:
    """Limits for a whole process tree. Swap is none, as on a board's flash."""

    board: str
    memory_bytes: int
    memory_basis: Literal["measured", "estimate", "host"]  # "host": this machine has less than the board
    cores: int
    cpu_quota: float  # CPU seconds a second of all threads together; 0: none
    speed_basis: Literal["GFLOP/s", "clock", "none"]  # what a core of the board is compared with one here by


def plan(board: DeviceProfile, host: Host) -> EmulatedLimits:
    """Limits that make ``host`` give what ``board`` gives. Raises ``ConfigError`` for a board without figures."""
    if board.name == "generic":
        raise ConfigError("board 'generic' has no figures of its own to emulate; name a real one, such as pi-4b")
    measured = board.measured
    memory = measured.usable_memory_bytes if measured else int(board.memory_bytes * USABLE_SHARE)
    cores = min(board.cores, host.cores)
    speed, basis = _speed(board, host)
    quota = cores * speed
    return EmulatedLimits(
        board=board.name,
        memory_bytes=min(memory, host.memory_bytes),
        memory_basis="host" if memory > host.memory_bytes else "measured" if measured else "estimate",
        cores=cores,
        cpu_quota=round(quota, 3) if 0 < quota < cores else 0.0,
        speed_basis=basis,
    )


def _speed(board: DeviceProfile, host: Host) -> tuple[float, Literal["GFLOP/s", "clock", "none"]]:
    """A core of the board in cores of this machine, and by which figure."""
    if board.measured is not None and board.measured.convolution_gflops > 0 and host.convolution_gflops > 0:
        return board.measured.convolution_gflops / host.convolution_gflops, "GFLOP/s"
    if board.clock_mhz > 0 and host.clock_mhz > 0:
        return board.clock_mhz / host.clock_mhz, "clock"
    return 0.0, "none"


def this_host(board: DeviceProfile) -> Host:
    """The machine around this process; its GFLOP/s are measured only for a board whose own were (4 s).

    Raises ``ProfileError`` where they cannot be.
    """
    frequency = psutil.cpu_freq()
    return Host(
        cores=usable_cores(),
        memory_bytes=total_memory_bytes(),
        # A virtual machine knows no maximum.
        clock_mhz=0.0 if frequency is None else float(frequency.max or frequency.current),
        convolution_gflops=0.0 if board.measured is None else gflops_apart(board.measured.engine),
    )


def plan_here(name: str) -> EmulatedLimits:
    """Limits for a shipped board on this machine. Raises ``ProfileError``, ``ConfigError``."""
    board = board_called(name)
    return plan(board, this_host(board))


@dataclass(frozen=True, slots=True)
class Emulated:
    """What an emulation does hold, and what of the board is missing in it: a line each, for a person."""

    limits: EmulatedLimits
    memory_means: str  # "cgroup v1", "cgroup v2" or "RLIMIT_DATA"
    cpu_means: str  # "cgroup v1", "cgroup v2" or "" where no quota is set
    holds_swap: bool
    sensors: bool = False

    @property
    def emulated(self) -> tuple[str, ...]:
        """What the board has in common with the emulation."""
        limits = self.limits
        why = {"measured": "measured on one", "host": "all that this machine has", "estimate": "an estimate"}
        found = [
            f"memory: {format_size(limits.memory_bytes)} ({why[limits.memory_basis]}), by {self.memory_means}",
            f"cores: {limits.cores}, by affinity",
        ]
        if self.holds_swap:
            found.append("swap: none")
        if self.cpu_means:
            found.append(
                f"CPU time: {limits.cpu_quota:.2f} cores of this machine (by {limits.speed_basis}), "
                f"by {self.cpu_means}"
            )
        if self.sensors:
            found.append("sensors and device tree: as faked")
        return tuple(found)

    @property
    def not_emulated(self) -> tuple[str, ...]:
        """What a result from here says nothing about."""
        limits, board = self.limits, board_called(self.limits.board)
        missing = [
            f"instruction set: {os.uname().machine}, not the board's {board.cpu} ({board.architecture})",
            "memory bandwidth and caches",
            "disk speed",
            "heat, throttling, power"
            if self.sensors
            else "heat, throttling, power: the sensors are this machine's",
        ]
        if board.gpu:
            missing.append(f"the GPU ({board.gpu})")
        if limits.cores < board.cores:
            missing.append(f"{board.cores - limits.cores} of {board.cores} cores: this machine has no more")
        if limits.memory_basis == "host":
            missing.append("the board's whole memory: this machine has less")
        if self.memory_means == "RLIMIT_DATA":
            missing.append("one memory for all: RLIMIT_DATA holds each process by itself, and no files in memory")
        if not self.holds_swap:
            missing.append("no swap: this machine's may be used")
        missing.append(_missing_speed(limits, self.cpu_means))
        return tuple(missing)


def _missing_speed(limits: EmulatedLimits, means: str) -> str:
    if limits.speed_basis == "none":
        return "core speed: neither a rate nor a clock is known to compare by"
    if limits.cpu_quota == 0:
        return f"core speed: by {limits.speed_basis}, this machine's cores are no faster than the board's"
    if not means:
        return "core speed: no CPU quota can be set here; the command runs at a lower priority"
    blind = "" if limits.speed_basis == "GFLOP/s" else "work per clock; "
    return f"core speed: {blind}the quota holds all threads together, one alone may have more than its part"
