"""Names that nobody has accepted yet: a bounded number, whoever sends how many."""

from __future__ import annotations

from collections import OrderedDict


class Newcomers:
    """At most ``most`` names. Beyond that the oldest goes, of those first that were never heard of again."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._once: OrderedDict[str, None] = OrderedDict()
        self._again: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._once) + len(self._again)

    def add(self, device: str) -> str | None:
        """A name, and the one that has to go for it."""
        self.drop(device)
        self._once[device] = None
        if len(self) <= self._most:
            return None
        # The newest itself only where it would be alone.
        crowd = self._once if len(self._once) > 1 or not self._again else self._again
        return crowd.popitem(last=False)[0]

    def heard(self, device: str) -> None:
        """A heartbeat: it is more than a name."""
        if device in self._once:
            del self._once[device]
            self._again[device] = None

    def drop(self, device: str) -> None:
        """The operator has decided, or it is gone."""
        self._once.pop(device, None)
        self._again.pop(device, None)
