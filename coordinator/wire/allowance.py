"""A token bucket: how much somebody may have a second, and at once."""

from __future__ import annotations


class Allowance:
    """Holds ``at_once`` to begin with and at most, and gains ``per_s`` a second."""

    __slots__ = ("_at", "_at_once", "_left", "_per_s")

    def __init__(self, per_s: float, at_once: float, now: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left, self._at = at_once, now

    def take(self, amount: float, now: float) -> bool:
        """Take ``amount`` at time ``now`` (seconds); False, with nothing taken, where there is less."""
        self._left = min(self._at_once, self._left + (now - self._at) * self._per_s)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def give_back(self, amount: float) -> None:
        """What was taken turned out to be somebody else's to pay."""
        self._left = min(self._at_once, self._left + amount)
