"""All four phases in one process: what a simulation, a benchmark and the tests run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from tinyfleet.fedcore.arrays import IntArray
from tinyfleet.fedcore.secure_sum.collector import SecureSum
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.messages import (
    DealtShares,
    HeldShares,
    KeyAdvert,
    Roster,
    Survivors,
    Unmasking,
    decode,
    encode,
)
from tinyfleet.fedcore.secure_sum.participant import Participant
from tinyfleet.fedcore.secure_sum.ring import Layout

DEVICE_PARTS = ("advertise", "deal", "mask", "reveal")
COORDINATOR_PARTS = ("roster", "relay", "add", "unmask")


@dataclass(frozen=True, slots=True)
class Losses:
    """Who is lost when: before it has dealt, before its vector is there, before it has revealed."""

    dealing: Collection[str] = ()
    masking: Collection[str] = ()
    revealing: Collection[str] = ()


@dataclass(slots=True)
class Exchanged:
    """What an exchange came to. Bytes are of all devices together, each message as it travels."""

    survivors: tuple[str, ...] = ()
    sums: dict[str, IntArray] = field(default_factory=dict)
    control_up: int = 0
    control_down: int = 0
    vectors: int = 0

    def up(self, message: Struct) -> bytes:
        """One message to the coordinator, counted."""
        data = encode(message)
        self.control_up += len(data)
        return data

    def down(self, message: Struct, receivers: int = 1) -> bytes:
        """One message to so many devices, counted."""
        data = encode(message)
        self.control_down += len(data) * receivers
        return data


def exchange_sums(
    exchange: Exchange,
    layout: Layout,
    terms: Mapping[str, Mapping[str, IntArray]],
    samples: int,
    entropy: Callable[[int], bytes],
    *,
    degree: int = 0,
    share: float = 0.5,
    losses: Losses | None = None,
    watch: Callable[[str], None] = lambda part: None,
) -> Exchanged:
    """The sums of what survives of ``terms``, integers by device and segment.

    ``entropy`` gives so many bytes of the system's generator. ``watch`` hears of each part as it begins. Raises as
    the parts do: ``TooFewSurvivors``, ``OutOfReach`` and so on.
    """
    lost, found = losses or Losses(), Exchanged()
    watch("advertise")
    devices = {name: Participant(name, exchange, entropy(32)) for name in terms}
    adverts = [found.up(one.advert()) for one in devices.values()]
    watch("roster")
    known = Roster.of(exchange, [decode(one, KeyAdvert) for one in adverts], samples, degree=degree, share=share)
    announced = found.down(known, len(devices))
    watch("deal")
    rosters = {name: decode(announced, Roster) for name in sorted(devices.keys() - set(lost.dealing))}
    dealt = [found.up(devices[name].deal(roster)) for name, roster in rosters.items()]
    watch("relay")
    total = SecureSum(known, layout)
    for message in dealt:
        total.deal(decode(message, DealtShares))
    members = total.close_dealing()
    watch("mask")
    masked = {
        name: devices[name].masked(rosters[name], members, layout.words(terms[name]), layout)
        for name in sorted(set(members) - set(lost.masking))
    }
    watch("add")
    for name, packed in masked.items():
        total.add(name, packed)
        found.vectors += len(packed)
    survivors = total.survivors()
    asked = found.down(survivors, len(masked))
    held = {name: found.down(total.held_by(name)) for name in masked}
    watch("reveal")
    replies = [
        found.up(
            devices[name].reveal(rosters[name], members, decode(held[name], HeldShares), decode(asked, Survivors))
        )
        for name in sorted(masked.keys() - set(lost.revealing))
    ]
    watch("unmask")
    found.sums = total.total({reply.device: reply for reply in (decode(one, Unmasking) for one in replies)})
    found.survivors = survivors.names
    watch("")
    return found
