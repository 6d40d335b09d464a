"""What the log says of devices that nobody has accepted: all together, now and then."""

from __future__ import annotations

import logging

from tinyfleet.fedcore.foreign.seldom import Seldom
from tinyfleet.fedcore.foreign.shown import printable

log = logging.getLogger(__name__)

_SHOWN = 300  # characters of a reason


class StrangersLog:
    """A line of each kind at most every ``every_s`` seconds, with how many it stands for."""

    def __init__(self, every_s: float) -> None:
        self._said = Seldom(every_s)

    def fault(self, device: str, kind: str, reason: str, now: float) -> bool:
        """A message that was none; True where this one was told."""
        faults = self._said.times("fault", now)
        if not faults:
            return False
        log.warning(
            "from %s, which nobody has accepted: %s dropped: %s%s",
            device,
            kind,
            printable(reason, _SHOWN),
            f" ({faults} of such devices since this was said last)" if faults > 1 else "",
        )
        return True

    def over(self, device: str, now: float) -> None:
        """A message that was dropped unread: such devices sent too many."""
        if dropped := self._said.times("over", now):
            log.warning(
                "devices that nobody has accepted send more than is read: %d dropped, one of %s", dropped, device
            )
