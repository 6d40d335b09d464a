"""How long to wait before the next try to connect."""

from __future__ import annotations

import random

RECONNECT_BASE_S = 0.5
# A connection that stood for so long was no part of the trouble that comes after it.
STABLE_S = 60.0


class Backoff:
    """Full jitter: a random wait up to a bound that doubles from 0.5 s to ``longest_s``.

    Only a connection that stood for ``STABLE_S`` takes the bound back: two clients that take a session over from
    each other stand for a moment each time.
    """

    def __init__(self, longest_s: float, rng: random.Random) -> None:
        self._longest_s, self._rng = longest_s, rng
        self._failures = 0

    def wait_s(self, stood_s: float) -> float:
        """How long to wait after a connection that stood for ``stood_s`` seconds, 0 where it never did."""
        if stood_s >= STABLE_S:
            self._failures = 0
        bound = min(self._longest_s, RECONNECT_BASE_S * 2.0 ** min(self._failures, 20))
        self._failures += 1
        return self._rng.uniform(0.0, bound)
