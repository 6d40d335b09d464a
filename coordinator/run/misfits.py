"""Devices whose data means something else than the run's: known from what they say of it, and told why, once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.coordinator.wire.outgoing import Outgoing
from tinyfleet.fedcore.datasets.contract import objections
from tinyfleet.fedcore.protocol.messages import LeftOut
from tinyfleet.fedcore.run_spec import RunSpec

log = logging.getLogger(__name__)

MOST_TOLD = 2000  # characters of a message's text


class Misfits:
    """Of one run, which goes on without them while they are what they are."""

    def __init__(self, run: str, spec: RunSpec, outgoing: Outgoing) -> None:
        self._run, self._spec, self._outgoing = run, spec, outgoing
        self._told: dict[str, str] = {}

    def among(self, rows: Sequence[DeviceRow]) -> dict[str, str]:
        """Those of ``rows``, and why; the log and each of them hear of it when it is new."""
        found = {row.device: objections(row.data, self._spec) for row in rows if row.data is not None}
        reasons = {device: "; ".join(said) for device, said in found.items() if said}
        for device, reason in reasons.items():
            if self._told.get(device) != reason:
                log.warning("run %s goes on without %s: %s", self._run, device, reason)
                self._outgoing.send(device, LeftOut(self._run, reason[:MOST_TOLD]))
        self._told |= reasons
        return reasons

    def greeted(self, device: str) -> None:
        """It may have started anew, and would not know."""
        self._told.pop(device, None)
