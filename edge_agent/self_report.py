"""What an agent tells of itself: Hello, heartbeats, Goodbye."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tinyfleet.device_profiles.sensors.read import read_health
from tinyfleet.edge_agent.guards.sensor_settings import SensorSettings
from tinyfleet.edge_agent.identity import Identity
from tinyfleet.fedcore.foreign.board import board_facts
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.protocol.messages import Goodbye, Heartbeat, Hello, Traffic
from tinyfleet.fedcore.protocol.version import PROTOCOL

TaskKey = tuple[str, int]  # run, step


@dataclass(frozen=True, slots=True)
class Board:
    """What Hello says of this board; found out once, by a child process."""

    engines: tuple[str, ...]
    samples: int
    profile: dict[str, Any] = field(default_factory=dict)
    version: str = "0"
    data: DataDescription | None = None


class SelfReport:
    """Of one start of the agent, which ``session`` tells from the others. ``state`` is on the disk that counts."""

    def __init__(
        self, identity: Identity, board: Board, sensors: SensorSettings, state: Path, memory_limit_bytes: int
    ) -> None:
        self.session = secrets.token_hex(8)
        self._identity = identity
        self._board = board
        self._profile = board_facts(board.profile)
        self._memory_limit_bytes = memory_limit_bytes
        self._disabled, self._options = sensors.disabled, sensors.options(state)
        self._process = psutil.Process()

    def hello(self, task: TaskKey | None, held: list[str]) -> Hello:
        """With ``task``: the one under way, or the oldest whose result waits. ``held``: runs with masks here."""
        board = self._board
        return Hello(
            protocol=PROTOCOL,
            name=self._identity.device,
            public_key=self._identity.public_key,
            session=self.session,
            agent_version=board.version,
            engines=list(board.engines),
            profile=self._profile,
            samples=board.samples,
            memory_limit_bytes=self._memory_limit_bytes,
            task=task,
            held=held,
            data=board.data,
        )

    def heartbeat(self, task: TaskKey | None, worker_rss_bytes: int, traffic: Traffic) -> Heartbeat:
        """With the board's health as it is now."""
        health = {
            "rss_bytes": float(self._process.memory_info().rss),
            "worker_rss_bytes": float(worker_rss_bytes),
            **read_health(disabled=self._disabled, options=self._options),
        }
        return Heartbeat(self.session, task, health, traffic)

    def goodbye(self, reason: str) -> Goodbye:
        """Said by the agent, or by the broker in its name."""
        return Goodbye(self.session, reason)
