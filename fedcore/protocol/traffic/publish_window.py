"""How many publishes may be under way, and when what is under way is lost."""

from __future__ import annotations

from collections.abc import Callable

ACKNOWLEDGEMENT_S = 10.0  # of silence, after which a publish will not be acknowledged any more


class PublishWindow:
    """``size`` unacknowledged publishes at most. A broker whose queue is full drops acknowledgements."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self.size, self._clock = size, clock
        self.under_way = 0
        self._last_at = 0.0  # that anything was published or acknowledged

    @property
    def full(self) -> bool:
        return self.under_way >= self.size

    @property
    def silent_s(self) -> float:
        """Seconds since anything was published or acknowledged."""
        return self._clock() - self._last_at

    @property
    def lost(self) -> bool:
        """True where what is under way will not be acknowledged any more."""
        return self.under_way > 0 and self.silent_s >= ACKNOWLEDGEMENT_S

    def published(self) -> None:
        self.under_way += 1
        self._last_at = self._clock()

    def acknowledged(self) -> None:
        self.under_way = max(0, self.under_way - 1)
        self._last_at = self._clock()

    def clear(self) -> None:
        """Another connection, or given up: nothing is under way."""
        self.under_way = 0
