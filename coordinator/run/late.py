"""Devices that are still at an earlier step whose results may count in a later one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class LateDevices:
    """Which earlier step each of them is at; a result is too late after ``staleness`` steps."""

    def __init__(self, staleness: int) -> None:
        self._staleness = staleness
        self._steps: dict[str, int] = {}

    def __contains__(self, device: str) -> bool:
        return device in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def counts(self, step: int, coming: int) -> bool:
        """True where a result of an earlier ``step`` may still count in the ``coming`` one."""
        return 0 < coming - step <= self._staleness

    def add(self, devices: Iterable[str], step: int) -> None:
        """They are still at ``step``, which is over."""
        self._steps.update(dict.fromkeys(devices, step))

    def free(self, device: str) -> None:
        """It is at no earlier step any more, and may take part again."""
        self._steps.pop(device, None)

    def drop_too_late(self, coming: int) -> dict[str, int]:
        """Devices, and their steps, whose work can no longer count; they are forgotten here."""
        gone = {device: step for device, step in self._steps.items() if not self.counts(step, coming)}
        for device in gone:
            del self._steps[device]
        return gone
