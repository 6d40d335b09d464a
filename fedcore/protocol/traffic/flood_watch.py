"""Whether a flood of unconfirmed publishes has just ended: then the connection is made anew."""

from __future__ import annotations

MANY = 500  # skipped publishes of a connection; a broker queues twice as many and more before it drops any
QUIET_S = 2.0  # without any, then it is over
LOOK_S = 0.5


class FloodWatch:
    """Told now and then how many publishes the present connection has skipped.

    While its queue for a client is full, Mosquitto 2.0 takes messages of QoS 1 for sent that it drops, waits for
    their acknowledgement for ever, and sends no others once there are too many. A new connection starts afresh.
    """

    def __init__(self) -> None:
        self._skipped = 0
        self._last_at = self._looked_at = float("-inf")

    def due(self, now: float) -> bool:
        """True where it is time to look again."""
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        return True

    def over(self, skipped: int, now: float) -> bool:
        """True once after a flood."""
        if skipped != self._skipped:
            self._skipped, self._last_at = skipped, now
        elif skipped >= MANY and now - self._last_at >= QUIET_S:
            self._skipped = 0
            self._last_at = now
            return True
        return False
