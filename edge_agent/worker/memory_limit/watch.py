"""How often a worker's memory is looked at: every look wakes a small board up."""

from __future__ import annotations

from tinyfleet.edge_agent.worker.budget import SOFT_SHARE

CLOSE_INTERVAL_S, CALM_INTERVAL_S = 0.05, 0.2
# Of the soft limit: above it a burst may be near.
_CLOSE_SHARE = 0.5
# Growth is fast where the soft limit is met within this, if it goes on: five calm looks.
_AHEAD_S = 1.0


class Watch:
    """On one worker under ``limit_bytes`` (0: none)."""

    def __init__(self, limit_bytes: int) -> None:
        self._soft_bytes = SOFT_SHARE * limit_bytes
        self._before: tuple[float, int] | None = None

    def interval_s(self, now: float, rss_bytes: int) -> float:
        """Seconds until the next look, by what this one and the one before found."""
        before, self._before = self._before, (now, rss_bytes)
        if not self._soft_bytes:
            return CALM_INTERVAL_S
        if before is None or rss_bytes > _CLOSE_SHARE * self._soft_bytes:
            return CLOSE_INTERVAL_S
        growth = (rss_bytes - before[1]) / max(now - before[0], 1e-3)  # bytes a second
        return CLOSE_INTERVAL_S if rss_bytes + _AHEAD_S * growth > self._soft_bytes else CALM_INTERVAL_S
