"""Whom the agent obeys: its own fleet, in this session, once."""

from __future__ import annotations

import pytest

from tests.edge_agent.rig import IDENTITY, Coordinator, Rig
from tests.signing import FLEET_KEY, Signer, key_named
from tinyfleet.edge_agent.fleet import pin
from tinyfleet.edge_agent.fleet.pin import FleetPin
from tinyfleet.edge_agent.state_directory import STATUS
from tinyfleet.edge_agent.states import AssignmentState, LinkState
from tinyfleet.edge_agent.status import read
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.chunks import pack_chunk
from tinyfleet.fedcore.protocol.loop import LoopTransport
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Enrolment,
    Hello,
    HelloWanted,
    ResultOffer,
    ResultVerdict,
    RunEnded,
    TaskCancel,
    Verdict,
    Welcome,
    encode,
)
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.signed.envelope import Direction
from tinyfleet.fedcore.protocol.signed.signatures import fleet_id, shown
from tinyfleet.fedcore.protocol.transport import Received

FLEET = fleet_id(FLEET_KEY.public)
STRANGER = key_named("stranger")


def stranger(rig, *, fleet=FLEET, session=None):
    """Knows all that is said on the broker, and has a key of its own."""
    theirs = rig.coordinator.signer
    session = session or theirs.session
    return Signer(STRANGER, Direction.DOWN, "porch", session, peer=theirs.peer, fleet=fleet, counter=1000)


def tell(rig, payload):
    rig.agent.handle(Received(topics.down("porch"), payload))


def finished(rig):
    """A result that waits in the outbox."""
    rig.training()
    rig.worker.finish()
    rig.settle()
    (offer,) = rig.outbox.offers()
    return offer


def commands(offer):
    return [
        ResultVerdict(offer.run, offer.step, Verdict.STORED),
        ResultVerdict(offer.run, offer.step, Verdict.REFUSED),
        TaskCancel(offer.run, offer.step),
        RunEnded(offer.run),
        Welcome(Enrolment.REJECTED),
        ChunkRequest(offer.manifest.sha256, 0, 1),
    ]


def test_a_strangers_commands_are_not_obeyed(rig, caplog):
    waiting = finished(rig)
    task = rig.training(step=1)
    chunks = len(rig.coordinator.chunks)
    for message in commands(waiting) + commands(task):
        tell(rig, encode(message))
        tell(rig, stranger(rig).seal(message))
        tell(rig, stranger(rig, fleet=fleet_id(STRANGER.public)).seal(message))
    rig.settle()
    assert rig.outbox.offers() == [waiting]
    assert rig.agent.assignment.key == ("r", 1)
    assert not rig.worker.closed
    assert rig.agent.link.state is LinkState.ACCEPTED
    assert len(rig.coordinator.chunks) == chunks
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([line for line in warnings if "is not signed by its fleet" in line]) == 1
    assert len([line for line in warnings if "speaks to this board" in line]) == 1


def test_a_strangers_garbage_is_told_once(rig, caplog):
    rig.coordinator.serving = False
    rig.coordinator.offer(0, b"task")
    rig.settle()
    assert rig.agent.assignment.state is AssignmentState.FETCHING
    digest = rig.agent.assignment.task.offer.manifest.sha256
    for _ in range(20):
        tell(rig, stranger(rig).seal(b"{}"))
        for payload in (b"x", pack_chunk(digest, 0, b"longer than it may be"), pack_chunk(digest, 9, b"task")):
            rig.coordinator.transport.publish(topics.down_chunk("porch"), payload)
        rig.settle()
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    rig.coordinator.serving = True


def test_a_strangers_garbage_is_told_once_before_a_fleet_is_pinned(tmp_path, caplog):
    rig = Rig(tmp_path)
    rig.coordinator.transport.close()
    rig.settle()
    caplog.clear()
    for _ in range(20):
        nobody = Signer(STRANGER, Direction.DOWN, "porch", "s9", peer=rig.agent.session, fleet="ab" * 16)
        rig.agent.handle(Received(topics.down("porch"), nobody.seal(b"{}")))
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_a_strangers_offer_is_not_taken_in_the_place_of_the_real_one(rig):
    real = rig.coordinator.offer(0, b"real")
    rig.coordinator.blobs.clear()
    tell(rig, stranger(rig).seal(real))
    forged = Coordinator(LoopTransport(rig.broker, "stranger"), key=STRANGER)
    forged.signer.peer = rig.coordinator.signer.peer
    rig.coordinator.serving = False
    offer = forged.offer(0, b"forged")
    rig.settle()
    assert rig.agent.assignment.task.offer.manifest == real.manifest != offer.manifest


@pytest.mark.parametrize("field", ["device", "peer", "fleet", "session"])
def test_what_is_meant_for_another_is_not_obeyed(rig, field):
    waiting = finished(rig)
    signer = rig.coordinator.signer
    other = {"device": "other", "peer": "0" * 16, "fleet": "0" * 32, "session": "0" * 16}[field]
    names = {"device": signer.device, "session": signer.session, "peer": signer.peer, "fleet": FLEET, field: other}
    made = Signer(FLEET_KEY, Direction.DOWN, counter=1000, **names)
    tell(rig, made.seal(ResultVerdict(waiting.run, waiting.step, Verdict.STORED)))
    assert rig.outbox.offers() == [waiting]


def test_what_was_said_before_means_nothing_again(rig):
    waiting = finished(rig)
    verdict = rig.coordinator.signer.seal(ResultVerdict(waiting.run, waiting.step, Verdict.STORED))
    later = rig.coordinator.signer.seal(HelloWanted())
    tell(rig, later)
    tell(rig, verdict)
    assert rig.outbox.offers() == [waiting], "it came after what was said after it"
    peer = rig.coordinator.signer.peer
    rig.transport.close()
    rig.agent.assignment.stop()
    rig.start()
    rig.settle()
    assert rig.coordinator.signer.peer != peer
    tell(rig, verdict)
    rig.settle()
    assert rig.outbox.offers() == [waiting], "it was said to an earlier start of the agent"
    rig.coordinator.verdict(waiting.step)
    rig.settle()
    assert rig.outbox.offers() == []


def test_another_start_of_the_coordinator_is_greeted_before_it_is_obeyed(rig):
    waiting = finished(rig)
    rig.coordinator.restart()
    rig.coordinator.signer.peer = rig.agent.session
    rig.coordinator.heard.clear()
    rig.clock.now += 2.0
    rig.coordinator.verdict(waiting.step)
    rig.agent.turn(0.0)
    assert rig.outbox.offers() == [waiting]
    rig.settle()
    assert rig.coordinator.of(Hello)
    rig.coordinator.heard.clear()
    rig.coordinator.welcome()
    rig.settle()
    assert rig.coordinator.of(ResultOffer) == [waiting], "what waits is said to it at once"
    rig.coordinator.verdict(waiting.step)
    rig.settle()
    assert rig.outbox.offers() == []


def test_the_first_fleet_that_accepts_is_pinned_and_another_is_named_once(tmp_path, caplog):
    rig = Rig(tmp_path)
    rig.settle()
    assert pin.read(tmp_path / pin.FILE_NAME) is None
    rig.coordinator.welcome(Enrolment.PENDING)
    rig.settle()
    assert pin.read(tmp_path / pin.FILE_NAME) is None
    rig.coordinator.welcome()
    rig.settle()
    assert pin.read(tmp_path / pin.FILE_NAME) == FLEET_KEY.public
    assert (tmp_path / pin.FILE_NAME).stat().st_mode & 0o777 == 0o600
    other = Coordinator(LoopTransport(rig.broker, "other"), key=STRANGER)
    rig.transport.close()
    rig.start()
    for _ in range(5):
        rig.settle(10.0)
        other.listen()
    assert rig.agent.link.state is LinkState.GREETING
    rig.coordinator.welcome()
    rig.settle()
    assert rig.agent.link.state is LinkState.ACCEPTED
    mine, theirs = shown(FLEET), shown(fleet_id(STRANGER.public))
    lines = [record.getMessage() for record in caplog.records if "speaks to this board" in record.getMessage()]
    assert len(lines) == 1
    assert mine in lines[0]
    assert theirs in lines[0]
    status = read(tmp_path / STATUS)
    assert (status.fleet, status.fingerprint) == (FLEET, shown(IDENTITY.fingerprint))
    assert theirs in status.others


def test_a_board_without_a_fleet_obeys_nobody_and_keeps_its_results(rig):
    waiting = finished(rig)
    rig.transport.close()
    rig.agent.assignment.stop()
    assert pin.release(rig.state / pin.FILE_NAME)
    assert not pin.release(rig.state / pin.FILE_NAME)
    (rig.state / pin.FILE_NAME).mkdir()
    assert pin.release(rig.state / pin.FILE_NAME), "whatever is in its place"
    assert not (rig.state / pin.FILE_NAME).exists()
    rig.start()
    rig.settle()
    for message in commands(waiting)[:4]:
        rig.coordinator.say(message)
    rig.coordinator.offer(5)
    rig.settle()
    assert rig.outbox.offers() == [waiting]
    assert rig.agent.assignment.state is AssignmentState.IDLE


def test_the_configured_fleet_is_the_only_one(tmp_path):
    path = tmp_path / pin.FILE_NAME
    wanted = FleetPin(path, FLEET)
    wanted.keep(STRANGER.public)
    assert wanted.key is None
    wanted.keep(FLEET_KEY.public)
    assert FleetPin(path, FLEET).key == FleetPin(path).key == FLEET_KEY.public
    with pytest.raises(ConfigError, match="this board belongs to"):
        FleetPin(path, "0" * 32)


@pytest.mark.parametrize("content", [b'{"public_key":"\xff"}', b"", b"{}", b'{"public_key":"AAAA"}', b"\xff"])
def test_a_damaged_pin_is_never_replaced_in_silence(tmp_path, content):
    path = tmp_path / pin.FILE_NAME
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="release-fleet"):
        FleetPin(path)
    assert path.read_bytes() == content


def test_a_message_of_protocol_1_is_named(rig, caplog):
    tell(rig, encode(Welcome(Enrolment.ACCEPTED)))
    assert "a Welcome without a signature, as protocol 1 had it; update the coordinator" in caplog.text


def test_two_coordinators_of_one_key_are_named_and_do_not_take_turns(rig, caplog):
    first, second = rig.coordinator, Coordinator(LoopTransport(rig.broker, "second"))
    for coordinator in (second, first, second, first, second, first):
        rig.clock.now += 2.0
        coordinator.signer.peer = rig.agent.session
        coordinator.say(HelloWanted())
        for _ in range(4):
            rig.agent.turn(0.0)
            coordinator.listen()
    assert caplog.text.count("two coordinators have the key of fleet") == 1
    settled = rig.agent._channel.peer
    for coordinator in (first, second):
        coordinator.say(HelloWanted())
        rig.settle()
    assert rig.agent._channel.peer == settled


def test_a_connection_that_was_taken_over_tells_of_a_copied_card(rig, caplog):
    rig.broker._clients[IDENTITY.client_id]._lose(
        "the broker ended the connection: Session taken over", CauseKind.SESSION
    )
    rig.settle()
    assert "two boards have one identity, as where a card was copied" in caplog.text
    assert "two boards" in read(rig.state / STATUS).others


def test_a_board_that_was_turned_away_asks_again(rig):
    rig.coordinator.welcome(Enrolment.REJECTED)
    rig.settle()
    rig.coordinator.heard.clear()
    rig.settle(30.0)
    assert not rig.coordinator.of(Hello)
    rig.settle(70.0)
    assert len(rig.coordinator.of(Hello)) == 1
