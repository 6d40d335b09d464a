"""A device's half of a secure sum. Everything follows from one root secret, so that a restart says the same."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tinyfleet.fedcore.secure_sum.errors import SecureSumError, TamperedShares
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.keys import agreed, derived, public_of
from tinyfleet.fedcore.secure_sum.messages import (
    LEAST_MEMBERS,
    DealtShares,
    HeldShares,
    KeyAdvert,
    Roster,
    Survivors,
    Unmasking,
)
from tinyfleet.fedcore.secure_sum.ring import Layout, Words
from tinyfleet.fedcore.secure_sum.shamir import COEFFICIENT_BYTES, PRIME, SHARE_BYTES, split
from tinyfleet.fedcore.secure_sum.stream import add_stream, stream_bytes

_NONCE = bytes(12)  # each sealing key seals one message: it is of one exchange, one sender and one receiver


class Participant:
    """One device in one exchange. ``root``: 32 bytes from the system's generator, never of another exchange.

    ``masked`` and ``reveal`` answer once: the same question again gets the same answer, another one an error. Who
    keeps a participant over restarts keeps ``root``, ``input_digest`` and ``survivors``, each on disk before what
    follows from it is sent.
    """

    def __init__(
        self,
        device: str,
        exchange: Exchange,
        root: bytes,
        *,
        input_digest: bytes = b"",
        survivors: tuple[str, ...] = (),
    ) -> None:
        self.device, self.exchange = device, exchange
        self.input_digest, self.survivors = input_digest, survivors
        self._sealing = derived(root, exchange.bind("sealing key", device))
        self._masking = derived(root, exchange.bind("masking key", device))
        self._seed = derived(root, exchange.bind("own mask", device))
        self._dealing = derived(root, exchange.bind("coefficients", device))

    # -- phase 0 ------------------------------------------------------------------------

    def advert(self) -> KeyAdvert:
        """The public half."""
        digest = hashlib.sha256(self._seed).digest()
        return KeyAdvert(self.device, public_of(self._sealing), public_of(self._masking), digest)

    # -- phase 1 ------------------------------------------------------------------------

    def deal(self, roster: Roster) -> DealtShares:
        """Shares of both secrets for every holder. Raises ``SecureSumError`` where the roster is not sound."""
        self._check(roster)
        holders = (*roster.neighbours[self.device], self.device)
        points = [roster.points[name] for name in holders]
        size, degree = COEFFICIENT_BYTES, roster.threshold - 1
        stream = stream_bytes(self._dealing, 2 * degree * size)
        drawn = [int.from_bytes(stream[at : at + size], "big") % PRIME for at in range(0, len(stream), size)]
        seeds = split(int.from_bytes(self._seed, "big"), drawn[:degree], points)
        keys = split(int.from_bytes(self._masking, "big"), drawn[degree:], points)
        return DealtShares(
            self.device,
            {
                name: self._seal(roster, name, seed.to_bytes(SHARE_BYTES, "big") + key.to_bytes(SHARE_BYTES, "big"))
                for name, seed, key in zip(holders, seeds, keys, strict=True)
            },
        )

    # -- phase 2 ------------------------------------------------------------------------

    def masked(self, roster: Roster, dealt: Collection[str], words: Words, layout: Layout) -> bytes:
        """``words`` under the device's own mask and one with each neighbour that dealt, packed. ``words`` is spent.

        Raises ``SecureSumError`` where another vector went out before, or too few neighbours have dealt.
        """
        peers = self._peers(roster, dealt)
        digest = hashlib.sha256(words.tobytes()).digest()
        if self.input_digest not in (b"", digest):
            raise SecureSumError("another vector was masked with these keys before; take part with fresh ones")
        self.input_digest = digest
        add_stream(words, self._seed)
        for peer in peers:
            shared = pair_seed(self._masking, roster, self.device, peer)
            add_stream(words, shared, subtract=self.device > peer)
        return layout.pack(words)

    # -- phase 3 ------------------------------------------------------------------------

    def reveal(self, roster: Roster, dealt: Collection[str], held: HeldShares, survivors: Survivors) -> Unmasking:
        """Shares that take the masks off the sum of ``survivors``, and of nothing else.

        Raises ``SecureSumError`` for a second list, or one that is too short or not of this exchange;
        ``TamperedShares`` for shares that nobody sealed for this device.
        """
        peers, names = self._peers(roster, dealt), set(survivors.names)
        if held.exchange != self.exchange or held.sealed.keys() != {*peers, self.device}:
            raise SecureSumError("shares of others than the neighbours that dealt in this exchange")
        if survivors.exchange != self.exchange or not names <= set(roster.names) or self.device not in names:
            raise SecureSumError("the list of survivors is not of this exchange")
        holders = {*roster.neighbours[self.device], self.device}
        if len(names) < LEAST_MEMBERS or len(names & holders) < roster.threshold:
            raise SecureSumError(
                f"{len(names & holders)} of {len(holders)} holders survive; {roster.threshold} must, and "
                f"{LEAST_MEMBERS} devices in all"
            )
        ordered = tuple(sorted(names))
        if self.survivors not in ((), ordered):
            raise SecureSumError("shares were revealed for another list of survivors: both would unmask a device")
        self.survivors = ordered
        opened = {name: self._open(roster, name, held.sealed[name]) for name in (*peers, self.device)}
        return Unmasking(
            self.device,
            {name: shares[:SHARE_BYTES] for name, shares in opened.items() if name in names},
            {name: shares[SHARE_BYTES:] for name, shares in opened.items() if name not in names},
        )

    # -- inside -------------------------------------------------------------------------

    def _check(self, roster: Roster) -> None:
        roster.check()
        if roster.exchange != self.exchange or roster.by_name.get(self.device) != self.advert():
            raise SecureSumError("the roster is not of this exchange, or has other keys for this device")

    def _peers(self, roster: Roster, dealt: Collection[str]) -> tuple[str, ...]:
        """Neighbours that dealt."""
        self._check(roster)
        peers = sorted(set(roster.neighbours[self.device]).intersection(dealt))
        if self.device not in dealt or len(peers) + 1 < roster.threshold:
            raise SecureSumError(f"{len(peers) + 1} holders have dealt; {roster.threshold} must, this one included")
        return tuple(peers)

    def _seal(self, roster: Roster, receiver: str, shares: bytes) -> bytes:
        key = sealing_key(self._sealing, roster, self.device, receiver, peer=receiver)
        return ChaCha20Poly1305(key).encrypt(_NONCE, shares, None)

    def _open(self, roster: Roster, sender: str, sealed: bytes) -> bytes:
        key = sealing_key(self._sealing, roster, sender, self.device, peer=sender)
        try:
            return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, None)
        except InvalidTag:
            raise TamperedShares(f"the shares that {sender} sealed for {self.device} were changed") from None


def sealing_key(private: bytes, roster: Roster, sender: str, receiver: str, *, peer: str) -> bytes:
    """The key of the one message from ``sender`` to ``receiver``; ``peer`` is the other end of the two."""
    return agreed(private, roster.by_name[peer].sealing, roster.exchange.bind("shares", sender, receiver))


def pair_seed(private: bytes, roster: Roster, device: str, peer: str) -> bytes:
    """The seed of the mask that two devices have in common; ``private`` is the first one's masking key."""
    return agreed(private, roster.by_name[peer].masking, roster.exchange.bind("mask", *sorted((device, peer))))
