"""Who else speaks as one of our devices, or as our coordinator: said seldom, for they may speak often."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tinyfleet.coordinator.store.devices import Devices
from tinyfleet.fedcore.foreign.seldom import HOUR_S, Seldom
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.signed.signatures import fingerprint, shown

log = logging.getLogger(__name__)


class Rivals:
    """Each is a warning once an hour; what concerns a device stands beside it in ``devices list`` as long."""

    def __init__(self, store: Devices, fleet: str, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._own = shown(fleet)
        self._said = Seldom(HOUR_S)
        self._noted: dict[str, float] = {}  # devices, and when their trouble is no news any more
        store.end_troubles()

    def foreign(self, device: str, fleet: str) -> None:
        """A device is pinned to another fleet."""
        self._say(
            "fleet",
            "",  # whatever it is called: nobody signs for that yet
            f"devices of fleet {shown(fleet)} are on this broker, {device} for one, and this is the coordinator of "
            f"fleet {self._own}, which they do not heed: another coordinator is here, or this state directory is "
            "not the one that the devices know",
        )

    def other_key(self, device: str, key: bytes) -> None:
        """Somebody greets as a device whose key is another."""
        mark = shown(fingerprint(key))
        self._device(device, "key", f"a board with the key {mark} calls itself {device} and is refused")

    def cloned(self, device: str) -> None:
        """Two boards have the identity of one device."""
        self._device(
            device,
            "clone",
            f"two boards have the identity of {device}, as where a card was copied: stop one, remove identity.json "
            "from its state directory, and start it again",
        )

    def second_coordinator(self, device: str) -> None:
        """A device of ours was greeted by another coordinator with our key."""
        self._say(
            "coordinator",
            "",
            f"another coordinator has the key of fleet {self._own} and answers {device}, as where a state "
            "directory was copied: stop one of the two",
        )

    def disconnected(self, cause: Cause | None) -> None:
        """The broker ended the connection, and may have said that somebody else has this coordinator's name."""
        if cause is not None and cause.kind is CauseKind.SESSION:
            self._say(
                "taken",
                "",
                "another client has taken over this coordinator's connection: a second coordinator of fleet "
                f"{self._own}, as where a state directory was copied; stop one of the two",
            )

    def tick(self, now: float) -> None:
        """What was not noticed again is no news any more."""
        for device in [name for name, until in self._noted.items() if now >= until]:
            del self._noted[device]
            self._store.set_trouble(device, "")

    def _device(self, device: str, kind: str, what: str) -> None:
        self._noted[device] = self._clock() + HOUR_S
        if self._say(kind, device, what):
            self._store.set_trouble(device, what)

    def _say(self, kind: str, whom: str, what: str) -> bool:
        if not self._said.times((kind, whom), self._clock()):
            return False
        log.warning("%s", what)
        return True
