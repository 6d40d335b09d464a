"""One thing a device at a time: the latest of what it wants waits until it is its turn again."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """``gap_s`` lies between two things of one device; a hostile one costs no more than that."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._waiting: dict[str, T] = {}
        self._served: dict[str, float] = {}

    def put(self, device: str, thing: T) -> None:
        """What it wants now, in place of what it wanted before."""
        self._waiting[device] = thing

    def take(self, now: float) -> list[tuple[str, T]]:
        """(device, thing) of those whose turn it is; ``now`` is monotonic, in seconds."""
        due = [one for one in self._waiting if now - self._served.get(one, -self._gap_s) >= self._gap_s]
        self._served.update(dict.fromkeys(due, now))
        return [(one, self._waiting.pop(one)) for one in due]
