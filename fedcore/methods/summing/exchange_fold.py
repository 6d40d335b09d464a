"""What a phase of a secure sum has heard so far: messages, or the sum of masked vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyfleet.fedcore.arrays import IntArray
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.parts.checks import checked_samples
from tinyfleet.fedcore.methods.summing import phases
from tinyfleet.fedcore.methods.summing.phases import ExchangeState, Phase, sealed_table
from tinyfleet.fedcore.methods.summing.summands import COARSE, SAMPLES
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.secure_sum.collector import SecureSum
from tinyfleet.fedcore.secure_sum.errors import OutOfReach, SecureSumError
from tinyfleet.fedcore.secure_sum.messages import DealtShares, KeyAdvert, Roster, Unmasking, decode
from tinyfleet.fedcore.secure_sum.ring import Layout


class ExchangeFold:
    """``add`` takes one device's message wholly or raises. ``layout`` is asked for once the roster is known."""

    def __init__(self, standing: ExchangeState, raw: dict[str, bytes], layout: Callable[[Roster], Layout]) -> None:
        self._standing = standing
        self._adverts: dict[str, KeyAdvert] = {}
        self._samples = 0
        self._beyond: set[str] = set()  # names of sums that have to be wide
        self._added: set[str] = set()
        self._replies: dict[str, Unmasking] = {}
        if standing.phase is Phase.KEYS:
            return
        roster = decode(raw.get(phases.ROSTER, b""), Roster)
        # Shares are dealt before anybody needs the ring.
        ring = Layout(()) if standing.phase is Phase.SHARES else layout(roster)
        self._sum = SecureSum.resumed(roster, ring, standing.dealt)
        if standing.phase is Phase.UNMASK:
            self._sum.restore(standing.names, raw.get(phases.SUM, b""))

    @property
    def devices(self) -> int:
        return len(self._added)

    def add(self, result: Payload) -> None:
        """Raises ``ResultError``, ``CodecError`` where it does not fit."""
        device: Any = result.meta.get(phases.DEVICE)
        if not isinstance(device, str) or device in self._added:
            raise ResultError(f"device is {device!r:.80}: no name, or one that has answered already")
        try:
            self._take(device, result)
        except SecureSumError as error:
            raise ResultError(str(error)) from None
        self._added.add(device)

    def _take(self, device: str, result: Payload) -> None:
        raw = result.raw
        match self._standing.phase:
            case Phase.KEYS:
                advert = decode(raw.get(phases.ADVERT, b""), KeyAdvert)
                self._check(advert.device, device)
                self._adverts[device] = advert
                self._samples += checked_samples(result)
            case Phase.SHARES:
                dealt = decode(raw.get(phases.DEALT, b""), DealtShares)
                self._check(dealt.device, device)
                self._sum.deal(dealt)
            case Phase.RESULTS if phases.OUT_OF_REACH in result.meta:
                self._beyond |= self._narrow(result.meta[phases.OUT_OF_REACH])
            case Phase.RESULTS:
                self._sum.add(device, raw.get(phases.VECTOR, b""))
            case Phase.UNMASK:
                reply = decode(raw.get(phases.SHARES, b""), Unmasking)
                self._check(reply.device, device)
                self._sum.check(reply)
                self._replies[device] = reply

    def _narrow(self, names: Any) -> set[str]:
        """Names of sums that are not wide yet."""
        segments = {segment.name for segment in self._sum.layout.segments}
        known = {name for name in segments - {SAMPLES} if name + COARSE not in segments and COARSE not in name}
        if not isinstance(names, list) or not names or not all(name in known for name in names):
            raise ResultError(f"{names!r:.200} are no sums of this step that could be wider")
        return set(names)

    @staticmethod
    def _check(said: str, device: str) -> None:
        if said != device:
            raise ResultError(f"{device} sent a message of {said!r:.80}")

    # -- the end of a phase -------------------------------------------------------------

    def roster(self, degree: int, share: float) -> Roster:
        """All that advertised. Raises ``SecureSumError`` where they are too few."""
        exchange = self._standing.exchange
        return Roster.of(exchange, list(self._adverts.values()), max(1, self._samples), degree=degree, share=share)

    def sealed(self) -> tuple[tuple[str, ...], bytes]:
        """Who goes on, and the table of what they dealt. Raises ``TooFewSurvivors``."""
        names = tuple(self._sum.close_dealing())
        return names, sealed_table(self._sum.roster, names, self._sum.sealed)

    def masked_sum(self) -> tuple[tuple[str, ...], bytes]:
        """Survivors, and their sum. Raises ``OutOfReach`` where one said so, ``TooFewSurvivors``."""
        if self._beyond:
            names = tuple(sorted(self._beyond))
            raise OutOfReach(f"values beyond the reach of {', '.join(names[:3])}", names)
        return self._sum.survivors().names, self._sum.masked_sum()

    def total(self) -> dict[str, IntArray]:
        """The sum without its masks, by segment. Raises ``TooFewSurvivors``, ``TamperedShares``."""
        return self._sum.total(self._replies)
