"""One warning when the other side is out of reach, few while it stays so, one line when it is reached again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from tinyfleet.fedcore.protocol.reach.backoff import STABLE_S
from tinyfleet.fedcore.protocol.reach.causes import RETURNING, Cause, CauseKind

# The same cause is said again after so long, then after twice as long, and so on, at the most.
REPEAT_S, REPEAT_MOST_S = 300.0, 3600.0

_REACHED = {
    CauseKind.COORDINATOR: "the coordinator answers",
    CauseKind.DEVICES: "devices are heard of",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps this side from the other, for ``status``; ``since`` is Unix time in seconds."""

    kind: CauseKind
    reason: str
    since: float

    def told(self, now: float) -> str:
        """In one line, as of ``now`` (Unix time)."""
        return f"{self.kind.value}: {self.reason} (for {_span(max(0.0, now - self.since))})"


@dataclass(slots=True)
class _Said:
    at: float
    wait_s: float = REPEAT_S


class ReachWatch:
    """Told again and again what holds now, it logs what is new.

    An outage that begins soon after the last one ended belongs to it: from then on only a minute without any counts
    as its end. So does a cause of which a connection that stands is no proof, such as two clients with one id.
    """

    def __init__(self, logger: logging.Logger, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._log, self._clock, self._wall_clock = logger, clock, wall_clock
        self._cause: Cause | None = None  # that of the outage, also while that may be over
        self._first = CauseKind.LOST  # what it began with
        self._began = self._since = 0.0
        self._well_since: float | None = None  # reached, though perhaps not for long
        self._ended: float | None = None  # when the last outage was over
        self._comes_back = False
        self._said: dict[str, _Said] = {}
        self._times = 0

    @property
    def trouble(self) -> Trouble | None:
        """The outage; None while the other side is reached."""
        return None if self._cause is None else Trouble(self._cause.kind, self._cause.reason, self._since)

    def note(self, cause: Cause | None) -> None:
        """What keeps this side from the other now; None: nothing."""
        if cause is None:
            self._note_well()
        else:
            self._note_ill(cause)

    def _note_well(self) -> None:
        now = self._clock()
        if self._well_since is None:
            self._well_since = now
        if self._cause is None:
            if self._ended is None or now - self._ended >= STABLE_S:
                self._said.clear()
                self._comes_back = False
            return
        if self._comes_back and now - self._well_since < STABLE_S:
            return
        self._log.info(
            "%s again, after %s", _REACHED.get(self._first, "the broker is reached"), _span(now - self._began)
        )
        self._cause, self._ended = None, now

    def _note_ill(self, cause: Cause) -> None:
        now = self._clock()
        if self._cause is None:
            self._begin(cause, now)
        if self._well_since is not None:
            self._times += 1
        self._well_since = None
        self._cause = cause
        self._comes_back = self._comes_back or cause.kind in RETURNING
        said = self._said.get(cause.key)
        if said is None:
            self._said[cause.key] = _Said(now)
            self._log.warning("broker %s%s", cause.reason, ", again" if self._times > 1 else "")
        elif now - said.at >= said.wait_s:
            self._said[cause.key] = _Said(now, min(2 * said.wait_s, REPEAT_MOST_S))
            often = f", {self._times} times" if self._times > 1 else ""
            self._log.warning("broker %s (for %s%s)", cause.reason, _span(now - self._began), often)

    def _begin(self, cause: Cause, now: float) -> None:
        self._first, self._since = cause.kind, self._wall_clock()
        if self._ended is not None and now - self._ended < STABLE_S:
            # It was said that all is well: this has to be said once more, and then no more.
            self._comes_back = True
            self._said.pop(cause.key, None)
        else:
            self._began, self._times, self._comes_back = now, 0, False
            self._said.clear()


def _span(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    if seconds < 7200.0:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
