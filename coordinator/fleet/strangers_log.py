"""What the log says of devices that nobody has accepted: all together, now and then."""

from __future__ import annotations

import logging

from tinyfleet.fedcore.foreign.shown import printable

log = logging.getLogger(__name__)

_SHOWN = 300  # characters of a reason


class StrangersLog:
    """A line of each kind at most every ``every_s`` seconds, with how many it stands for."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._faults = self._over = 0  # since the last line
        self._faults_said_at = self._over_said_at = float("-inf")

    def fault(self, device: str, kind: str, reason: str, now: float) -> bool:
        """A message that was none; True where this one was told."""
        self._faults += 1
        if now - self._faults_said_at < self._every_s:
            return False
        log.warning(
            "from %s, which nobody has accepted: %s dropped: %s%s",
            device,
            kind,
            printable(reason, _SHOWN),
            f" ({self._faults} of such devices since this was said last)" if self._faults > 1 else "",
        )
        self._faults, self._faults_said_at = 0, now
        return True

    def over(self, device: str, now: float) -> None:
        """A message that was dropped unread: such devices sent too many."""
        self._over += 1
        if now - self._over_said_at < self._every_s:
            return
        log.warning(
            "devices that nobody has accepted send more than is read: %d dropped, one of %s", self._over, device
        )
        self._over, self._over_said_at = 0, now
