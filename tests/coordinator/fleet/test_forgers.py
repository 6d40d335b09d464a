"""What others say in a device's name is not taken from what the device may say."""

from __future__ import annotations

import pytest

from tests.coordinator.toy_fleet import Fleet, seen
from tests.signing import Signer, key_named, public_key_of
from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.fedcore.errors import Unauthentic
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.chunks import pack_chunk
from tinyfleet.fedcore.protocol.loop import LoopTransport
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Heartbeat, Hello, TaskState, TaskStatus, Welcome
from tinyfleet.fedcore.protocol.signed import envelope
from tinyfleet.fedcore.protocol.signed.envelope import Direction
from tinyfleet.fedcore.protocol.transport import Received

DEVICE = "board-0"
AT_ONCE, FLOOD = 20, 300
STATUS = TaskStatus("no such run", 0, TaskState.RUNNING)


@pytest.fixture
def make_fleet(tmp_path):
    fleets = []

    def make(**limits):
        limits = {"messages_per_s": 1.0, "messages_at_once": float(AT_ONCE), **limits}
        fleet = Fleet(tmp_path, devices=1, limits=AllowanceSettings(**limits))
        fleet.stranger = LoopTransport(fleet.broker, "stranger")
        fleet.stranger.open((topics.up(DEVICE), topics.up_chunk(DEVICE)))
        fleets.append(fleet)
        fleet.hello()
        fleet.clock.now += 60.0
        return fleet

    yield make
    for fleet in fleets:
        fleet.service.close()


def heard(transport):
    """Payloads that came since this was asked last."""
    found = []
    while (event := transport.receive(0)) is not None:
        found += [event.payload] if isinstance(event, Received) else []
    return found


def forged(fleet, kind):
    """Publishes in the device's name, by one who can hear and not sign."""
    forger = Signer(key_named("forger"), Direction.UP, DEVICE, "s1", counter=1 << 60)
    up = topics.up(DEVICE)
    match kind:
        case "rubbish":
            return [(up, b"x" * 200)] * FLOOD
        case "unsigned":
            return [(up, b'{"type":"goodbye","session":"s1"}')] * FLOOD
        case "of another device":
            other = Signer(key_named("board-1"), Direction.UP, "board-1", "s1")
            return [(up, other.seal(Heartbeat("s1"))) for _ in range(FLOOD)]
        case "recorded":
            fleet.agents[DEVICE].heartbeat()
            fleet.turn()
            return [(up, heard(fleet.stranger)[-1])] * FLOOD
        case "chunks":
            return [(topics.up_chunk(DEVICE), pack_chunk("cd" * 32, 0, b"x" * 1000))] * FLOOD
        case "no chunks":
            return [(topics.up_chunk(DEVICE), b"x")] * FLOOD
        case "false signatures":
            return [(up, forger.seal(Heartbeat("s1"))) for _ in range(FLOOD)]
        case "another key":
            hello = Hello(DEVICE, public_key_of("forger"), "s1", "0", [], nonce="0" * 32)
            return [(up, forger.seal(hello)) for _ in range(FLOOD)]
        case "another fleet":
            other = Signer(key_named("forger"), Direction.UP, DEVICE, "s1", fleet="f" * 32)
            return [(up, other.seal(Heartbeat("s1"))) for _ in range(FLOOD)]
    raise AssertionError(kind)


CHEAP = ["rubbish", "unsigned", "of another device", "recorded", "chunks", "no chunks"]
COSTLY = ["false signatures", "another key", "another fleet"]


def send(fleet, publishes):
    for topic, payload in publishes:
        fleet.stranger.publish(topic, payload)
    while len(fleet.transport._events):
        fleet.service.poll(0)
    fleet.turn()
    heard(fleet.stranger)


def may_speak(fleet):
    """Whether the device's greeting is heard and answered."""
    before = len(seen(fleet.agents[DEVICE], Welcome))
    fleet.agents[DEVICE].hello()
    fleet.turn()
    return len(seen(fleet.agents[DEVICE], Welcome)) > before


@pytest.mark.parametrize("kind", CHEAP)
def test_what_the_device_cannot_have_said_now_is_never_taken_from_its_allowance(make_fleet, kind):
    fleet = make_fleet(strangers_per_s=1e-9, strangers_at_once=10.0)
    send(fleet, forged(fleet, kind))
    assert may_speak(fleet)


def test_unsigned_greetings_are_answered_once_and_not_taken_from_the_allowance(make_fleet):
    fleet = make_fleet()
    hello = b'{"type":"hello","name":"x","public_key":"k","session":"s","agent_version":"0","engines":[]}'
    for _ in range(FLOOD):
        fleet.stranger.publish(topics.up(DEVICE), hello)
    while len(fleet.transport._events):
        fleet.service.poll(0)
    with pytest.raises(Unauthentic, match="protocol 1"):  # the device does not take it for the coordinator's word
        fleet.turn()
    assert may_speak(fleet), "one answer, and nothing more to refuse"


@pytest.mark.parametrize("kind", COSTLY)
def test_what_had_to_be_looked_into_is_taken_from_all_forgers_together(make_fleet, kind):
    fleet = make_fleet(strangers_at_once=float(FLOOD))
    send(fleet, forged(fleet, kind))
    assert may_speak(fleet)


def test_forgers_have_no_more_signatures_verified_than_they_may(make_fleet, monkeypatch):
    fleet = make_fleet(strangers_per_s=1e-9, strangers_at_once=50.0)
    verified = []
    verify = envelope.verify
    monkeypatch.setattr(envelope, "verify", lambda *what: (verified.append(what), verify(*what))[1])
    send(fleet, forged(fleet, "false signatures"))
    assert len(verified) == 50 + AT_ONCE


def test_a_forger_takes_nothing_from_newcomers(make_fleet):
    fleet = make_fleet(strangers_per_s=1e-9, strangers_at_once=10.0)
    send(fleet, forged(fleet, "false signatures"))
    hello = Hello("board-9", public_key_of("board-9"), "s1", "0", [], nonce="0" * 32)
    fleet.stranger.open((topics.down("board-9"),))
    fleet.stranger.publish(
        topics.up("board-9"), Signer(key_named("board-9"), Direction.UP, "board-9", "s1", fleet="").seal(hello)
    )
    fleet.turn()
    assert heard(fleet.stranger), "it is challenged"


def test_what_a_device_has_signed_is_taken_from_its_allowance(make_fleet, monkeypatch):
    fleet = make_fleet()
    handled = []
    monkeypatch.setattr(fleet.service._scheduler, "on_status", lambda device, status: handled.append(status))
    for _ in range(FLOOD):
        fleet.agents[DEVICE].say(STATUS)
    fleet.turn()
    assert len(handled) == AT_ONCE
    for _ in range(FLOOD):
        fleet.agents[DEVICE].say(ChunkRequest("ab" * 32, 0, 1))
    fleet.turn()
    assert not may_speak(fleet)
