"""Others who speak to this board, or as it: said seldom, for they may speak often."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tinyfleet.edge_agent.fleet.pin import RELEASE, FleetPin
from tinyfleet.fedcore.foreign.seldom import HOUR_S, Seldom
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.signed.signatures import shown

logger = logging.getLogger(__name__)


class Strangers:
    """Each kind is a warning once an hour; ``trouble`` is the latest of the last hour, for the agent's status."""

    def __init__(self, pin: FleetPin, device: str, clock: Callable[[], float]) -> None:
        self._trouble, self._noticed_at = "", float("-inf")
        self._pin = pin
        self._device = device
        self._clock = clock
        self._said = Seldom(HOUR_S)

    @property
    def trouble(self) -> str:
        """What was noticed last, for as long as it is news; else empty."""
        return self._trouble if self._clock() - self._noticed_at < HOUR_S else ""

    @property
    def own(self) -> str:
        """The fleet that this board belongs to, as people compare it."""
        return shown(self._pin.fleet) or "none"

    def noticed(self, fleet: str) -> None:
        """A message names another fleet."""
        self._say(
            "fleet",
            f"fleet {shown(fleet)} speaks to this board, which belongs to {self.own}, and is not heard: another "
            "coordinator on this broker, or one whose state directory was lost or replaced. To belong to that one: "
            f"stop the agent and run {RELEASE}",
        )

    def unauthentic(self, reason: str) -> None:
        """A message is not signed by the fleet."""
        self._say("unsigned", f"a message to this board is not signed by its fleet ({self.own}): {reason}")

    def second_coordinator(self) -> None:
        """A coordinator that was replaced by another is there after all."""
        self._say(
            "coordinator",
            f"two coordinators have the key of fleet {self.own}, as where a state directory was copied; stop one",
        )

    def disconnected(self, cause: Cause | None) -> None:
        """The broker ended the connection, and may have said that somebody else has this board's name."""
        if cause is not None and cause.kind is CauseKind.SESSION:
            self._say(
                "board",
                f"another client has taken over the connection of {self._device}: two boards have one identity, as "
                "where a card was copied; stop one, remove identity.json from its state directory, start it again",
            )

    def _say(self, kind: str, what: str) -> None:
        now = self._clock()
        self._trouble, self._noticed_at = what, now
        if self._said.times(kind, now):
            logger.warning("%s", what)
