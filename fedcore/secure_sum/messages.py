"""What devices and the coordinator say to each other in a secure sum, in the order of its phases."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.secure_sum.errors import SecureSumError
from tinyfleet.fedcore.secure_sum.exchange import Exchange, Member
from tinyfleet.fedcore.secure_sum.neighbours import degree_for, neighbours, ring_order, threshold_of
from tinyfleet.fedcore.secure_sum.shamir import SHARE_BYTES

MAX_MEMBERS = 4096
LEAST_MEMBERS = 3  # of two, each knows the other's term from the sum
TAG_BYTES = 16
SEALED_BYTES = 2 * SHARE_BYTES + TAG_BYTES
MAX_BYTES = 4 << 20  # of one message

PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digest32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Sealed = Annotated[bytes, Meta(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
Share33 = Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Kind = TypeVar("Kind")


class KeyAdvert(Struct, frozen=True, forbid_unknown_fields=True):
    """Phase 0, device -> all: its public keys of this exchange, and the digest of its own mask's seed."""

    device: Member
    sealing: PublicKey  # shares are sealed for it
    masking: PublicKey  # pairwise masks are agreed on with it
    seed_digest: Digest32


class Roster(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Phase 1, coordinator -> all: who takes part, and how many neighbours each has. Sorted by name."""

    exchange: Exchange
    adverts: Annotated[tuple[KeyAdvert, ...], Meta(max_length=MAX_MEMBERS)]
    degree: Annotated[int, Meta(ge=2, le=MAX_MEMBERS)]
    threshold: Annotated[int, Meta(ge=2, le=MAX_MEMBERS)]  # holders of shares that unmask
    samples: Annotated[int, Meta(ge=1, le=1 << 40)]  # of all devices together, at most

    @classmethod
    def of(
        cls, exchange: Exchange, adverts: list[KeyAdvert], samples: int, *, degree: int = 0, share: float = 0.5
    ) -> Roster:
        """A roster of all who advertised; ``degree`` 0: the least that holds. Raises ``SecureSumError``."""
        count = len(adverts)
        if degree and (degree < 2 or degree % 2) and degree < count - 1:
            raise SecureSumError(f"{degree} neighbours cannot be a ring's; give an even number from 2, or 0")
        degree = min(degree, count - 1) if degree else degree_for(count, share)
        ordered = tuple(sorted(adverts, key=lambda advert: advert.device))
        roster = cls(exchange, ordered, max(degree, 2), threshold_of(degree + 1, share), samples)
        roster.check()
        return roster

    def check(self) -> None:
        """Raise ``SecureSumError`` where no device should take part in it."""
        names = [advert.device for advert in self.adverts]
        if len(names) < LEAST_MEMBERS:
            raise SecureSumError(f"{len(names)} devices advertised keys; a sum hides a term among {LEAST_MEMBERS}")
        if names != sorted(set(names)):
            raise SecureSumError("the roster's devices are not in order, or one is there twice")
        keys = [key for advert in self.adverts for key in (advert.sealing, advert.masking)]
        if len(set(keys)) != len(keys):
            raise SecureSumError("one public key is there twice: keys are fresh, and of one use")
        if not self.degree // 2 + 1 <= self.threshold <= self.degree + 1:
            raise SecureSumError(
                f"{self.threshold} of {self.degree + 1} holders would unmask; only more than half of them may"
            )
        if self.degree >= len(names) or (self.degree % 2 and self.degree != len(names) - 1):
            raise SecureSumError(f"no ring of {len(names)} devices gives each {self.degree} neighbours")

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(advert.device for advert in self.adverts)

    @cached_property
    def by_name(self) -> dict[str, KeyAdvert]:
        return {advert.device: advert for advert in self.adverts}

    @cached_property
    def points(self) -> dict[str, int]:
        """Where each device's shares lie on the others' polynomials."""
        return {name: place + 1 for place, name in enumerate(self.names)}

    @cached_property
    def neighbours(self) -> dict[str, tuple[str, ...]]:
        """Of each device; their order comes of all keys, which none of them can choose alone."""
        seed = hashlib.sha256(msgspec.json.encode([self.exchange, self.adverts])).digest()
        return neighbours(ring_order(self.names, seed), self.degree)


class DealtShares(Struct, frozen=True, forbid_unknown_fields=True):
    """Phase 1, device -> coordinator: shares of its two secrets, each sealed for one holder, itself included."""

    device: Member
    sealed: dict[Member, Sealed]


class HeldShares(Struct, frozen=True, forbid_unknown_fields=True):
    """Phase 2, coordinator -> device: what its neighbours who dealt have sealed for it, and its own."""

    exchange: Exchange
    sealed: dict[Member, Sealed]


class Survivors(Struct, frozen=True, forbid_unknown_fields=True):
    """Phase 3, coordinator -> device: whose masked vectors are in the sum."""

    exchange: Exchange
    names: Annotated[tuple[Member, ...], Meta(max_length=MAX_MEMBERS)]


class Unmasking(Struct, frozen=True, forbid_unknown_fields=True):
    """Phase 3, device -> coordinator: of each neighbour, a share of one secret and never of both."""

    device: Member
    seeds: dict[Member, Share33]  # of survivors: their own masks' seeds
    keys: dict[Member, Share33]  # of those that were lost: their masking keys


def encode(message: Struct) -> bytes:
    """One message as JSON."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: type[Kind]) -> Kind:
    """A message of that kind. Raises ``CodecError`` for anything that is not one."""
    if len(data) > MAX_BYTES:
        raise CodecError(f"a secure sum's message of {len(data)} bytes; at most {MAX_BYTES} are read")
    decoder: Any = msgspec.json.Decoder(kind)
    try:
        found: Kind = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"not a {kind.__name__} of a secure sum: {str(error)[:300]}") from None
    return found
