"""What others can bring about often is said seldom."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

HOUR_S = 3600.0
_MOST = 4096  # things that are remembered; of those said longest ago nothing is


class Seldom:
    """Tells whether a thing may be said again: ``every_s`` seconds after it was said last."""

    def __init__(self, every_s: float = HOUR_S) -> None:
        self._every_s = every_s
        self._said: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()  # when, and how often since

    def times(self, what: Hashable, now: float) -> int:
        """How often it has happened since it was said last, with this time; 0 where it is not to be said now."""
        at, since = self._said.get(what, (float("-inf"), 0))
        if now - at < self._every_s:
            self._said[what] = (at, since + 1)
            return 0
        self._said[what] = (now, 0)
        self._said.move_to_end(what)
        if len(self._said) > _MOST:
            self._said.popitem(last=False)
        return since + 1
