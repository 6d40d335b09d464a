from __future__ import annotations

import numpy as np
import pytest

from tinyfleet.fedcore.secure_sum.errors import SecureSumError
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.keys import agreed, derived, public_of
from tinyfleet.fedcore.secure_sum.stream import add_stream, stream_bytes

ALICE = bytes(range(40, 72))


def test_both_ends_agree_and_nobody_else():
    bob, eve = bytes(range(32)), bytes(range(1, 33))
    info = Exchange("run", 3).bind("mask", "a", "b")
    shared = agreed(ALICE, public_of(bob), info)
    assert shared == agreed(bob, public_of(ALICE), info)
    assert shared != agreed(eve, public_of(bob), info)


def test_keys_are_those_of_rfc_7748():
    """Section 6.1: Bob's pair, and what it has in common with Alice's public key."""
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    alice = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert public_of(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert agreed(bob, alice, b"mask") == derived(shared, b"mask")


def test_derived_keys_are_those_of_rfc_5869():
    """Appendix A.3: no salt, no info; the first 32 bytes."""
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert derived(b"\x0b" * 22, b"").hex() == okm


@pytest.mark.parametrize(
    "other",
    [
        Exchange("run", 4).bind("mask", "a", "b"),
        Exchange("run", 3, 2).bind("mask", "a", "b"),
        Exchange("ru", 3).bind("mask", "a", "b"),
        Exchange("run", 3).bind("shares", "a", "b"),
        Exchange("run", 3).bind("mask", "b", "a"),
        Exchange("run", 3).bind("mask", "ab"),
        Exchange("run", 3).bind("mask", 'a","b'),
    ],
)
def test_another_purpose_gives_another_secret(other):
    bob = public_of(bytes(range(32)))
    info = Exchange("run", 3).bind("mask", "a", "b")
    assert info != other
    assert agreed(ALICE, bob, info) != agreed(ALICE, bob, other)
    assert derived(ALICE, info) != derived(ALICE, other)


@pytest.mark.parametrize("bad", [bytes(32), b"short", (1).to_bytes(32, "little")])
def test_a_key_that_agrees_on_nothing_is_refused(bad):
    with pytest.raises(SecureSumError, match="public key"):
        agreed(ALICE, bad, b"")


def test_the_stream_is_chacha20s():
    """RFC 8439, appendix A.1, first vector: key and nonce of zeros, block counter 0."""
    block = (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert stream_bytes(bytes(32), 64).hex() == block
    words = np.zeros(8, np.uint64)
    add_stream(words, bytes(32))
    assert words.tobytes().hex() == block


def test_a_mask_comes_off_again():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**64, (1 << 17) + 5, np.uint64)  # over the end of a block
    before = words.copy()
    add_stream(words, ALICE)
    assert (words != before).mean() > 0.999
    add_stream(words, ALICE, subtract=True)
    assert (words == before).all()
