"""The coordinator's half of a secure sum: it relays, adds up, and takes the masks off the sum alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, islice

import numpy as np

from tinyfleet.fedcore.arrays import IntArray
from tinyfleet.fedcore.secure_sum.errors import SecureSumError, TamperedShares, TooFewSurvivors
from tinyfleet.fedcore.secure_sum.keys import public_of
from tinyfleet.fedcore.secure_sum.messages import (
    LEAST_MEMBERS,
    DealtShares,
    HeldShares,
    Roster,
    Survivors,
    Unmasking,
)
from tinyfleet.fedcore.secure_sum.participant import pair_seed
from tinyfleet.fedcore.secure_sum.ring import Layout
from tinyfleet.fedcore.secure_sum.shamir import SECRET_BYTES, combine
from tinyfleet.fedcore.secure_sum.stream import add_stream

MAX_TRIES = 256  # sets of shares of one secret: one wrong share among enough others is found and left out


class SecureSum:
    """One exchange from its roster on: a masked vector is added as it comes, and is not kept."""

    def __init__(self, roster: Roster, layout: Layout) -> None:
        self.roster, self.layout = roster, layout
        self._dealt: dict[str, DealtShares] = {}
        self._members: set[str] = set()  # that dealt, and go on
        self._sum = np.zeros(layout.size, np.uint64)
        self._added: set[str] = set()

    @classmethod
    def resumed(cls, roster: Roster, layout: Layout, members: Iterable[str]) -> SecureSum:
        """One whose dealing is over."""
        found = cls(roster, layout)
        found._members = set(members)
        return found

    def restore(self, added: Iterable[str], total: bytes) -> None:
        """Go on from the sum of ``added`` that ``masked_sum`` gave. Raises ``SecureSumError`` for another size."""
        if len(total) != 8 * self.layout.size:
            raise SecureSumError(f"a sum of {len(total)} bytes; this exchange's has {8 * self.layout.size}")
        self._sum = np.frombuffer(total, "<u8").astype(np.uint64)
        self._added = set(added)

    def masked_sum(self) -> bytes:
        """The sum so far, masks and all."""
        return self._sum.astype("<u8", copy=False).tobytes()

    # -- phase 1 ------------------------------------------------------------------------

    def deal(self, dealt: DealtShares) -> None:
        """One device's sealed shares. Raises ``SecureSumError`` where they are for others than its neighbours."""
        around = self.roster.neighbours.get(dealt.device)
        if around is None or dealt.sealed.keys() != {*around, dealt.device}:
            raise SecureSumError(f"{dealt.device} dealt shares to others than its neighbours")
        if self._dealt.setdefault(dealt.device, dealt) != dealt:
            raise SecureSumError(f"{dealt.device} dealt other shares before")

    def close_dealing(self) -> list[str]:
        """Who goes on to mask: those that dealt, where enough holders of theirs did.

        Raises ``TooFewSurvivors`` where that leaves too few. Whoever is left out may have a term in nobody's mask.
        """
        fit = set(self._dealt)
        while lonely := {name for name in fit if len(fit & self._holders(name)) < self.roster.threshold}:
            fit -= lonely
        self._members = fit
        if len(fit) < LEAST_MEMBERS:
            raise TooFewSurvivors(
                f"{len(fit)} devices have dealt shares to enough others that did; repeat the step"
            )
        return sorted(fit)

    def held_by(self, device: str) -> HeldShares:
        """What was sealed for ``device``."""
        around = self._holders(device) & self._members
        return HeldShares(self.roster.exchange, {sender: self.sealed(sender, device) for sender in sorted(around)})

    def sealed(self, sender: str, receiver: str) -> bytes:
        """The shares that one sealed for the other."""
        return self._dealt[sender].sealed[receiver]

    # -- phase 2 ------------------------------------------------------------------------

    def add(self, device: str, packed: bytes) -> None:
        """One device's masked vector. Raises ``SecureSumError`` for a second one, a stranger's or a wrong size."""
        if device not in self._members or device in self._added:
            raise SecureSumError(f"{device} has dealt no shares, or its vector is in the sum already")
        self._sum += self.layout.unpack(packed)
        self._added.add(device)

    def survivors(self) -> Survivors:
        """Whose vectors are in the sum. Raises ``TooFewSurvivors`` where its masks can no longer come off."""
        for device in sorted(self._members):
            alive = len(self._holders(device) & self._added)
            if alive < self.roster.threshold:
                raise TooFewSurvivors(
                    f"{alive} holders of shares of {device} survive, {self.roster.threshold} are needed; repeat "
                    "the step with fresh keys"
                )
        if len(self._added) < LEAST_MEMBERS:
            raise TooFewSurvivors(f"{len(self._added)} devices survive; a sum hides a term among {LEAST_MEMBERS}")
        return Survivors(self.roster.exchange, tuple(sorted(self._added)))

    # -- phase 3 ------------------------------------------------------------------------

    def check(self, reply: Unmasking) -> None:
        """Raise ``SecureSumError`` where a reply has not one share of each neighbour's that was asked for."""
        around = self._holders(reply.device) & self._members if reply.device in self._added else frozenset()
        if not around or reply.seeds.keys() != around & self._added or reply.keys.keys() != around - self._added:
            raise SecureSumError(f"{reply.device} revealed shares of others than was asked for")

    def total(self, replies: Mapping[str, Unmasking]) -> dict[str, IntArray]:
        """The sum over the survivors, by segment.

        Raises ``TooFewSurvivors`` where too few have answered, ``TamperedShares`` where no shares give a secret.
        """
        for reply in replies.values():
            self.check(reply)
        words = self._sum.copy()
        for device in self._added:
            shares = {name: reply.seeds[device] for name, reply in replies.items() if device in reply.seeds}
            add_stream(words, self._seed_of(device, shares), subtract=True)
        for device in self._members - self._added:
            shares = {name: reply.keys[device] for name, reply in replies.items() if device in reply.keys}
            key = self._key_of(device, shares)
            for peer in self._holders(device) & self._added:
                # What the survivor added or subtracted, the other way round.
                add_stream(words, pair_seed(key, self.roster, device, peer), subtract=peer < device)
        return self.layout.integers(words)

    # -- inside -------------------------------------------------------------------------

    def _holders(self, device: str) -> frozenset[str]:
        return frozenset((*self.roster.neighbours[device], device))

    def _seed_of(self, device: str, shares: Mapping[str, bytes]) -> bytes:
        digest = self.roster.by_name[device].seed_digest
        for secret in self._candidates(device, shares):
            if hashlib.sha256(secret).digest() == digest:
                return secret
        raise TamperedShares(f"the shares of {device}'s own mask do not give the seed that it announced")

    def _key_of(self, device: str, shares: Mapping[str, bytes]) -> bytes:
        public = self.roster.by_name[device].masking
        for secret in self._candidates(device, shares):
            if public_of(secret) == public:
                return secret
        raise TamperedShares(f"the shares of {device}'s masking key do not give the key that it announced")

    def _candidates(self, device: str, shares: Mapping[str, bytes]) -> Iterator[bytes]:
        """What different sets of enough shares give; secrets alone, and at most ``MAX_TRIES``."""
        threshold = self.roster.threshold
        if len(shares) < threshold:
            raise TooFewSurvivors(
                f"{len(shares)} holders answered with shares of {device}, {threshold} are needed; repeat the step"
            )
        values = {self.roster.points[name]: int.from_bytes(share, "big") for name, share in shares.items()}
        points = sorted(values)
        if len(points) > threshold:
            # Sets that lack one holder come first: a single wrong share is in the way of none of these.
            turned = (points[start:] + points[:start] for start in range(len(points)))
            sets = [tuple(sorted(turn[:threshold])) for turn in turned]
        else:
            sets = []
        every = combinations(points, threshold)
        for chosen in islice((one for group in (sets, every) for one in group), MAX_TRIES):
            secret = combine({point: values[point] for point in chosen})
            if secret < 1 << (8 * SECRET_BYTES):
                yield secret.to_bytes(SECRET_BYTES, "big")
