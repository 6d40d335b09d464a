"""Whole exchanges: every way in which devices of a small fleet can be lost, and what must never come out."""

from __future__ import annotations

import os
import random
from itertools import combinations_with_replacement, product

import msgspec
import numpy as np
import pytest

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.secure_sum.collector import SecureSum
from tinyfleet.fedcore.secure_sum.errors import SecureSumError, TamperedShares, TooFewSurvivors
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.in_process import Losses, exchange_sums
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
from tinyfleet.fedcore.secure_sum.ring import Layout, Segment

LAYOUT = Layout((Segment("weights", 6, 40, 8), Segment("samples", 1, 12)))
EXCHANGE = Exchange("run", 7)
STAYS, MASKING, DEALING, REVEALING = range(4)


def terms_of(name: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(list(name.encode()))
    return {"weights": rng.integers(-(2**28), 2**28, 6) << 8, "samples": rng.integers(1, 100, 1)}


def expected(names) -> dict[str, list[int]]:
    return {
        segment.name: sum(terms_of(name)[segment.name] for name in names).tolist() for segment in LAYOUT.segments
    }


def run(names, lost=None, degree=0):
    return exchange_sums(
        EXCHANGE, LAYOUT, {n: terms_of(n) for n in names}, 1000, os.urandom, degree=degree, losses=lost
    )


@pytest.mark.parametrize(
    ("count", "patterns", "sums"),
    [
        (3, product, 4),
        (4, product, 13),
        (5, combinations_with_replacement, 10),
        pytest.param(5, product, 106, marks=pytest.mark.slow),
    ],
)
def test_every_pattern_of_losses(count, patterns, sums):
    """Each device stays, or is lost before one of three phases: the survivors' plain sum, or a typed error."""
    names = [f"d{number}" for number in range(count)]
    threshold = count // 2 + 1
    fates = (STAYS, MASKING, DEALING, REVEALING)
    finished = 0
    for fate in product(fates, repeat=count) if patterns is product else patterns(fates, count):
        when = {phase: [n for n, f in zip(names, fate, strict=True) if f == phase] for phase in range(4)}
        lost = Losses(when[DEALING], when[MASKING], when[REVEALING])
        dealt = count - len(when[DEALING])
        survivors = sorted(when[STAYS] + when[REVEALING])
        if dealt < max(3, threshold) or len(survivors) < max(3, threshold) or len(when[STAYS]) < threshold:
            with pytest.raises(TooFewSurvivors):
                run(names, lost)
            continue
        found = run(names, lost)
        assert list(found.survivors) == survivors
        assert {name: values.tolist() for name, values in found.sums.items()} == expected(survivors)
        finished += 1
    assert finished == sums


def test_a_ring_of_many_loses_a_third():
    names = [f"d{number:02d}" for number in range(40)]
    rng = random.Random(5)
    for _ in range(3):
        lost = rng.sample(names, 8)
        found = run(names, Losses(lost[:2], lost[2:6], lost[6:]), degree=16)
        assert {name: values.tolist() for name, values in found.sums.items()} == expected(found.survivors)
        assert len(found.survivors) == 34


# -- one by one ---------------------------------------------------------------------------


class Fleet:
    """An exchange up to the masked vectors."""

    def __init__(self, names=("a", "b", "c", "d", "e"), degree=0):
        self.devices = {name: Participant(name, EXCHANGE, os.urandom(32)) for name in names}
        adverts = [one.advert() for one in self.devices.values()]
        self.roster = Roster.of(EXCHANGE, adverts, 1000, degree=degree)
        self.total = SecureSum(self.roster, LAYOUT)
        for one in self.devices.values():
            self.total.deal(one.deal(self.roster))
        self.members = self.total.close_dealing()
        self.held = {name: self.total.held_by(name) for name in self.members}

    def masked(self, name):
        words = LAYOUT.words(terms_of(name))
        return self.devices[name].masked(self.roster, self.members, words, LAYOUT)

    def add(self, *names):
        for name in names:
            self.total.add(name, self.masked(name))

    def reveal(self, name, survivors):
        return self.devices[name].reveal(self.roster, self.members, self.held[name], survivors)


def test_a_device_answers_one_list_of_survivors_alone():
    fleet = Fleet()
    fleet.add("a", "b", "c", "d", "e")
    everyone = fleet.total.survivors()
    first = fleet.reveal("a", everyone)
    assert fleet.reveal("a", everyone) == first  # the same question gets the same answer
    with pytest.raises(SecureSumError, match="another list of survivors"):
        fleet.reveal("a", Survivors(EXCHANGE, ("a", "b", "c", "d")))
    kept = Participant("a", EXCHANGE, os.urandom(32), survivors=everyone.names)
    assert kept.survivors == everyone.names


def test_no_reply_has_both_secrets_of_one_device():
    fleet = Fleet()
    fleet.add("a", "b", "c")
    reply = fleet.reveal("a", fleet.total.survivors())
    assert reply.seeds.keys() == {"a", "b", "c"}
    assert reply.keys.keys() == {"d", "e"}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "c", "d"), ("a", "b", "x"), ("a", "a", "a")], ids="".join)
def test_a_device_reveals_nothing_for_a_list_that_is_too_short_or_strange(names):
    fleet = Fleet()
    fleet.add("a", "b", "c", "d")
    with pytest.raises(SecureSumError):
        fleet.reveal("a", Survivors(EXCHANGE, names))
    assert fleet.devices["a"].survivors == ()
    with pytest.raises(SecureSumError):
        fleet.reveal("a", Survivors(Exchange("run", 7, 2), ("a", "b", "c", "d")))


def test_keys_mask_one_vector():
    fleet = Fleet()
    first = fleet.masked("a")
    assert fleet.masked("a") == first  # asked again after a restart
    other = terms_of("a") | {"samples": np.array([99])}
    with pytest.raises(SecureSumError, match="another vector"):
        fleet.devices["a"].masked(fleet.roster, fleet.members, LAYOUT.words(other), LAYOUT)


def test_a_restart_says_the_same_again():
    root = os.urandom(32)
    devices = [Participant(name, EXCHANGE, os.urandom(32)) for name in "bcd"]
    one, again = Participant("a", EXCHANGE, root), Participant("a", EXCHANGE, root)
    assert one.advert() == again.advert()
    roster = Roster.of(EXCHANGE, [one.advert(), *(device.advert() for device in devices)], 1000)
    assert one.deal(roster) == again.deal(roster)
    assert Participant("a", Exchange("run", 7, 2), root).advert().masking != one.advert().masking


# -- tampering ------------------------------------------------------------------------------


def test_changed_sealed_shares_are_named():
    fleet = Fleet()
    sealed = bytearray(fleet.held["a"].sealed["b"])
    sealed[5] ^= 1
    fleet.held["a"] = HeldShares(EXCHANGE, {**fleet.held["a"].sealed, "b": bytes(sealed)})
    fleet.add("a", "b", "c", "d", "e")
    with pytest.raises(TamperedShares, match="that b sealed for a"):
        fleet.reveal("a", fleet.total.survivors())


def test_shares_sealed_for_another_do_not_open():
    fleet = Fleet()
    fleet.add("a", "b", "c", "d", "e")
    fleet.held["a"] = HeldShares(EXCHANGE, {**fleet.held["a"].sealed, "b": fleet.held["c"].sealed["b"]})
    with pytest.raises(TamperedShares):
        fleet.reveal("a", fleet.total.survivors())


def wrong(share: bytes) -> bytes:
    return ((int.from_bytes(share, "big") + 1) % 2**256).to_bytes(33, "big")


def test_one_wrong_share_among_enough_is_left_out():
    fleet = Fleet()
    fleet.add("a", "b", "c", "d")
    survivors = fleet.total.survivors()
    replies = {name: fleet.reveal(name, survivors) for name in "abcd"}
    liar = replies["b"]
    replies["b"] = Unmasking(
        "b", {n: wrong(s) for n, s in liar.seeds.items()}, {n: wrong(s) for n, s in liar.keys.items()}
    )
    assert fleet.total.total(replies)["samples"].tolist() == expected("abcd")["samples"]


@pytest.mark.parametrize("secret", ["seeds", "keys"])
def test_too_many_wrong_shares_are_a_typed_error(secret):
    fleet = Fleet()
    fleet.add("a", "b", "c")
    survivors = fleet.total.survivors()
    replies = {name: fleet.reveal(name, survivors) for name in "abc"}
    bent = {name: wrong(share) for name, share in getattr(replies["b"], secret).items()}
    replies["b"] = msgspec.structs.replace(replies["b"], **{secret: bent})
    with pytest.raises(TamperedShares, match="own mask" if secret == "seeds" else "masking key"):
        fleet.total.total(replies)


def test_a_reply_about_others_is_refused():
    fleet = Fleet()
    fleet.add("a", "b", "c", "d")
    reply = fleet.reveal("a", fleet.total.survivors())
    for bad in (
        Unmasking("a", {**reply.seeds, "e": reply.keys["e"]}, reply.keys),  # both of one device's
        Unmasking("a", reply.seeds, {}),
        Unmasking("e", reply.seeds, reply.keys),  # whose vector is not in the sum
        Unmasking("x", {}, {}),
    ):
        with pytest.raises(SecureSumError):
            fleet.total.check(bad)


def test_a_vector_counts_once():
    fleet = Fleet()
    packed = fleet.masked("a")
    fleet.total.add("a", packed)
    for device, vector in (("a", packed), ("x", packed), ("b", packed[:-1]), ("b", packed + b"\0")):
        with pytest.raises(SecureSumError):
            fleet.total.add(device, vector)
    fleet.add("b", "c")
    survivors = fleet.total.survivors()
    replies = {name: fleet.reveal(name, survivors) for name in "abc"}
    assert fleet.total.total(replies)["weights"].tolist() == expected("abc")["weights"]


def test_shares_are_dealt_once_and_to_neighbours():
    fleet = Fleet()
    dealt = fleet.devices["a"].deal(fleet.roster)
    fleet.total.deal(dealt)
    for bad in (
        DealtShares("a", {**dealt.sealed, "b": bytes(82)}),
        DealtShares("a", {name: s for name, s in dealt.sealed.items() if name != "b"}),
        DealtShares("x", dealt.sealed),
    ):
        with pytest.raises(SecureSumError):
            fleet.total.deal(bad)


# -- rosters --------------------------------------------------------------------------------


def changed(roster: Roster, **changes) -> Roster:
    fields = {name: getattr(roster, name) for name in Roster.__struct_fields__}
    return Roster(**(fields | changes))


def test_a_device_takes_part_in_no_roster_that_it_cannot_trust():
    fleet = Fleet()
    one, roster = fleet.devices["a"], fleet.roster
    stolen = list(roster.adverts)
    stolen[0] = KeyAdvert("a", bytes([9]) * 32, bytes([8]) * 32, bytes(32))
    for bad in (
        changed(roster, threshold=2),  # two halves could each unmask
        changed(roster, threshold=6),
        changed(roster, adverts=roster.adverts[:2], degree=2, threshold=2),
        changed(roster, adverts=roster.adverts[::-1]),
        changed(roster, adverts=(*roster.adverts[:4], roster.adverts[3])),
        changed(roster, adverts=tuple(stolen)),
        changed(roster, adverts=roster.adverts[1:], degree=3, threshold=3),
        changed(roster, exchange=Exchange("run", 8)),
        changed(roster, degree=3, threshold=3),
    ):
        with pytest.raises(SecureSumError):
            one.deal(bad)


@pytest.mark.parametrize("dealt", [("a", "b"), ("b", "c", "d"), ("a", "x", "y", "z")], ids="".join)
def test_too_few_holders_are_no_holders(dealt):
    fleet = Fleet()
    with pytest.raises(SecureSumError, match="holders have dealt; 3 must"):
        fleet.devices["a"].masked(fleet.roster, dealt, LAYOUT.words(terms_of("a")), LAYOUT)


def test_shares_of_all_that_dealt_are_held_or_none_is_revealed():
    fleet = Fleet()
    fleet.add("a", "b", "c", "d", "e")
    few = {name: sealed for name, sealed in fleet.held["a"].sealed.items() if name != "b"}
    fleet.held["a"] = HeldShares(EXCHANGE, few)
    with pytest.raises(SecureSumError, match="neighbours that dealt"):
        fleet.reveal("a", fleet.total.survivors())


# -- what a masked vector says --------------------------------------------------------------


def test_a_masked_vector_looks_uniform():
    """Chi-squared of its bytes, and the balance of each bit, of a vector that is all zeros; roots are fixed."""
    layout = Layout((Segment("weights", 40_000, 48),))
    names = ["a", "b", "c"]
    devices = {name: Participant(name, EXCHANGE, name.encode() * 32) for name in names}
    roster = Roster.of(EXCHANGE, [one.advert() for one in devices.values()], 1000)
    total = SecureSum(roster, layout)
    for one in devices.values():
        total.deal(one.deal(roster))
    total.close_dealing()
    zeros = {"weights": np.zeros(40_000, np.int64)}
    packed = devices["a"].masked(roster, names, layout.words(zeros), layout)
    seen = np.bincount(np.frombuffer(packed, np.uint8), minlength=256)
    mean = len(packed) / 256
    assert 180 < float(((seen - mean) ** 2 / mean).sum()) < 340  # 255 degrees of freedom: 255 +- 3.7 deviations
    bits = np.unpackbits(np.frombuffer(packed, np.uint8).reshape(-1, 6), axis=1).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.0125  # 5 deviations of a share of 40,000
    words = layout.unpack(packed)
    assert abs(np.corrcoef(words[:-1].astype(float), words[1:].astype(float))[0, 1]) < 0.025


def test_the_same_vector_under_fresh_keys_has_nothing_in_common():
    first, second = (np.frombuffer(Fleet().masked("a"), np.uint8) for _ in range(2))
    assert (first != second).mean() > 0.8


# -- messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyAdvert, Roster, DealtShares, HeldShares, Survivors, Unmasking])
@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"\xff" * 40, b'{"device":"' + b"a" * 100 + b'"}', b"[" * 5000]
)
def test_what_is_no_message_is_a_codec_error(kind, data):
    with pytest.raises(CodecError):
        decode(data, kind)


def test_shares_of_another_length_are_a_codec_error():
    fleet = Fleet()
    good = encode(fleet.devices["a"].deal(fleet.roster))
    assert decode(good, DealtShares).device == "a"
    with pytest.raises(CodecError):
        decode(msgspec.json.encode({"device": "a", "sealed": {"b": bytes(81)}}), DealtShares)
    with pytest.raises(CodecError, match="at most"):
        decode(b" " * (5 << 20), DealtShares)
