from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.protocol import messages, topics
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Enrolment,
    Hello,
    Manifest,
    TaskOffer,
    TaskState,
    TaskStatus,
    Welcome,
)

DIGEST = "0123456789abcdef" * 4
UP = [
    Hello("pi", "key", "s1", "0.1", ["torch"], {"cores": 4}, 100, 300_000_000, ("r", 3)),
    TaskStatus("r", 3, TaskState.RUNNING, local_steps_done=5, local_steps_total=10, loss=0.5),
    ChunkRequest(DIGEST, 0, 8),
]
OFFER = TaskOffer("r", 1, "train", 60.0, Manifest(DIGEST, 10, 4), {"name": "x"}, DIGEST)
DOWN = [Welcome(Enrolment.ACCEPTED, 2.0), OFFER, msgspec.structs.replace(OFFER, local_steps=3, activation_keep=0.5)]


@pytest.mark.parametrize("message", UP)
def test_up_messages_survive(message):
    assert messages.decode_up(messages.encode(message)) == message


@pytest.mark.parametrize("message", DOWN)
def test_down_messages_survive(message):
    assert messages.decode_down(messages.encode(message)) == message


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=5),
       lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
       .map(msgspec.json.encode))  # fmt: skip
def test_anything_else_is_a_codec_error(payload):
    for decode in (messages.decode_up, messages.decode_down):
        with pytest.raises(CodecError):
            decode(payload)


def test_an_offer_of_the_whole_job_reads_as_it_did_before_there_were_parts():
    written = messages.encode(OFFER)
    assert b"steps" not in written
    assert b"keep" not in written
    offer = messages.decode_down(written)
    assert (offer.local_steps, offer.activation_keep) == (0, 1.0)


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_a_part_that_is_none_is_refused(keep):
    with pytest.raises(CodecError):
        messages.decode_down(messages.encode(msgspec.structs.replace(OFFER, activation_keep=keep)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"start":0', b'"start":-1'),
        (b'"count":8', b'"count":100000'),
        (DIGEST.encode(), b"../../etc/passwd"),
        (b'"count":8', b'"count":8,"more":1'),
        (b"chunk_request", b"chunk_requests"),
    ],
)
def test_values_outside_their_bounds_are_refused(old, new):
    payload = messages.encode(UP[2])
    assert old in payload
    with pytest.raises(CodecError):
        messages.decode_up(payload.replace(old, new))


def test_long_messages_and_deep_ones_are_refused_unread():
    with pytest.raises(CodecError, match="at most"):
        messages.decode_up(b" " * (messages.MAX_MESSAGE_BYTES + 1))
    with pytest.raises(CodecError):
        messages.decode_up(b'{"a":' * 10_000)


def test_directions_are_kept_apart():
    with pytest.raises(CodecError):
        messages.decode_up(messages.encode(DOWN[0]))
    with pytest.raises(CodecError):
        messages.decode_down(messages.encode(UP[0]))


@pytest.mark.parametrize(
    ("topic", "device"),
    [
        (topics.up("pi-1"), "pi-1"),
        (topics.up_chunk("pi-1"), "pi-1"),
        (topics.down("pi-1"), None),
        ("tinyfleet/v1/../up", None),
        ("tinyfleet/v1/Pi/up", None),
        ("tinyfleet/v1/pi/up/chunk/x", None),
        ("tinyfleet/v1/pi/up/other", None),
        ("other/v1/pi/up", None),
        ("", None),
    ],
)
def test_the_device_of_a_topic(topic, device):
    assert topics.device_of(topic) == device
