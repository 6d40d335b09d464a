"""Who speaks: strangers, copies and recordings are not taken for a device, and do not disturb it."""

from __future__ import annotations

import msgspec
import pytest

from tests.coordinator.crowd import Crowd
from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_agent import Agent
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back, seen
from tests.signing import Signer, key_named, public_key_of
from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.loop import LoopTransport
from tinyfleet.fedcore.protocol.messages import (
    Enrolment,
    Goodbye,
    Heartbeat,
    Hello,
    ResultVerdict,
    TaskCancel,
    TaskState,
    TaskStatus,
    Welcome,
    decode_down,
    encode,
)
from tinyfleet.fedcore.protocol.reach.causes import CauseKind
from tinyfleet.fedcore.protocol.signed.envelope import Direction, unseal
from tinyfleet.fedcore.protocol.transport import Connected, Received


class Recorder:
    """A client that hears everything, and says it again."""

    def __init__(self, broker):
        self.transport = LoopTransport(broker, "recorder")
        self.transport.open(("#",))

    def heard(self):
        found = []
        while (event := self.transport.receive(0)) is not None:
            if isinstance(event, Received):
                found.append(event)
        return found

    def replay(self, events):
        for event in events:
            self.transport.publish(event.topic, event.payload)


def online(fleet):
    return {row.device for row in fleet.store.devices.all() if row.online}


def test_a_copied_public_key_is_no_key(fleet):
    fleet.hello()
    fleet.sleep(1)
    crowd = Crowd(fleet.broker)
    thief = Signer(key_named("thief"), Direction.UP, "board-0", "s9")
    hello = Hello("board-0", public_key_of("board-0"), "s9", "0", [], nonce="0" * 32)
    before = len(fleet.agents["board-0"].seen)
    crowd.transport.publish(topics.up("board-0"), thief.seal(hello))
    fleet.turn()
    assert crowd.transport.receive(0) == Connected()
    assert crowd.transport.receive(0) is None
    assert fleet.agents["board-0"].seen[before:] == []
    assert fleet.store.devices.pins()[0].session == "s1"


def test_another_key_is_refused_and_the_device_goes_on(fleet, caplog):
    spec = toy_spec(rounds=1)
    hold_back(fleet, *fleet.agents)
    run = fleet.store.runs.submit(spec)
    fleet.hello()
    fleet.sleep(1)
    transport = LoopTransport(fleet.broker, "other-client")
    other = Agent(None, "board-0", fleet.directory / "other", key="another key", session="s9", transport=transport)
    other.hello()
    for _ in range(4):
        fleet.turn()
        other.pump()
    assert seen(other, Welcome)[-1].enrolment is Enrolment.REJECTED
    assert "another public key" in seen(other, Welcome)[-1].reason
    assert Enrolment.REJECTED not in [welcome.enrolment for welcome in seen(fleet.agents["board-0"], Welcome)]
    assert "calls itself board-0 and is refused" in caplog.text
    assert "calls itself board-0" in fleet.store.devices.all()[0].trouble
    for agent in fleet.agents.values():
        agent.holds_results = False
        agent.offer_results()
    fleet.sleep(1)
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)


@pytest.mark.parametrize("device", ["board-0", "board-9"])
def test_who_greets_in_the_session_of_another_keeps_nobody_from_greeting(fleet, device):
    """The session of a greeting can be read by whoever the broker lets read it, and its counter outbid."""
    fleet.hello()
    fleet.sleep(1)
    agent = fleet.agents.get(device) or Agent(fleet.broker, device, fleet.directory / device)
    fleet.agents[device] = agent
    agent.restart()
    stranger = LoopTransport(fleet.broker, "stranger")
    stranger.open(())
    rival = Signer(key_named("rival"), Direction.UP, device, agent.session, counter=1 << 61)
    greeting = Hello(device, public_key_of("rival"), agent.session, "0", [], nonce="0" * 32)
    stranger.publish(topics.up(device), rival.seal(greeting))
    fleet.turn()
    agent.hello()
    stranger.publish(topics.up(device), rival.seal(greeting))  # before the device can answer its challenge
    fleet.turn()
    fleet.sleep(1)
    assert device in online(fleet)
    assert {pin.device: pin.session for pin in fleet.store.devices.pins()}[device] == agent.session
    assert agent.channel.established


def test_what_was_said_in_an_earlier_session_means_nothing(fleet):
    recorder = Recorder(fleet.broker)
    first = fleet.store.runs.submit(toy_spec(rounds=2))
    fleet.hello()
    fleet.sleep(2)
    fleet.agents["board-1"].goodbye()
    fleet.turn()
    old = recorder.heard()
    for agent in fleet.agents.values():
        agent.restart()
    fleet.hello()
    recorder.replay(old)
    fleet.turn()
    assert online(fleet) == set(fleet.agents)
    assert [pin.session for pin in fleet.store.devices.pins()] == ["s2"] * 3
    spec = toy_spec(rounds=2)
    second = fleet.store.runs.submit(spec)
    recorder.replay(old)
    fleet.sleep(2)
    recorder.replay(old)
    fleet.sleep(4)
    assert fleet.store.runs.get(second).state == "finished"
    assert [step.results for step in fleet.store.steps.of(second)] == [3, 3]
    assert fleet.state_bytes(second) == expected_state(spec, fleet.agents) == fleet.state_bytes(first)


def test_what_was_said_to_an_earlier_coordinator_means_nothing(fleet):
    recorder = Recorder(fleet.broker)
    hold_back(fleet, *fleet.agents)
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    old = recorder.heard()
    fleet.vanish()
    fleet.start()
    fleet.turn()
    recorder.replay(old)
    fleet.turn()
    assert fleet.store.runs.get(run).state == "running"
    for agent in fleet.agents.values():
        agent.holds_results = False
        agent.offer_results()
    fleet.sleep(2)
    assert fleet.store.runs.get(run).state == "finished"


def test_a_message_twice_counts_once(fleet, monkeypatch):
    fleet.hello()
    counted = []
    monkeypatch.setattr(fleet.service._scheduler, "on_status", lambda device, status: counted.append(status))
    agent = fleet.agents["board-0"]
    payload = agent.channel.seal(TaskStatus("x", 0, TaskState.RUNNING))
    for _ in range(3):
        agent.say_sealed(payload)
    fleet.turn()
    assert len(counted) == 1


def test_a_last_will_counts_for_its_connection_alone(fleet):
    agent = fleet.agents["board-0"]
    will = agent.channel.will(Goodbye("s1", "connection lost"))
    agent.channel.connected()
    fleet.hello()
    assert fleet.service._registry.online("board-0")
    agent.say_sealed(will)
    fleet.turn()
    assert not fleet.service._registry.online("board-0")
    agent.channel.will(Goodbye("s1", "connection lost"))
    agent.channel.connected()
    agent.hello()
    fleet.turn()
    assert fleet.service._registry.online("board-0")
    agent.say_sealed(will)
    fleet.turn()
    assert fleet.service._registry.online("board-0"), "an old will takes nobody away"


def test_a_last_will_of_before_a_restart_of_the_coordinator_still_counts(fleet):
    fleet.hello()
    will = fleet.agents["board-0"].channel.will(Goodbye("s1", "connection lost"))
    fleet.vanish()
    fleet.start()
    fleet.turn()
    assert fleet.service._registry.online("board-0")
    fleet.agents["board-0"].say_sealed(will)
    fleet.turn()
    assert not fleet.service._registry.online("board-0")


def test_a_swapped_device_name_is_found_out(fleet):
    fleet.hello()
    payload = fleet.agents["board-1"].channel.seal(Goodbye("s1", "gone"))
    fleet.agents["board-1"].transport.publish(topics.up("board-0"), payload)
    fleet.turn()
    assert fleet.service._registry.online("board-0")
    assert fleet.service._registry.online("board-1")


def test_devices_of_another_fleet_are_named_once_and_left_alone(fleet, caplog):
    fleet.hello()
    guest = Signer(key_named("guest"), Direction.UP, "guest", "s1", fleet="ab" * 16)
    before = len(fleet.store.devices.all())
    for _ in range(5):
        fleet.agents["board-0"].transport.publish(topics.up("guest"), guest.seal(Goodbye("s1")))
        fleet.agents["board-0"].transport.publish(
            topics.up("guest"), guest.seal(Hello("guest", public_key_of("guest"), "s1", "0", [], nonce="0" * 32))
        )
    fleet.turn()
    assert caplog.text.count("devices of fleet abab-abab-abab-abab are on this broker") == 1
    assert len(fleet.store.devices.all()) == before


def test_a_crowd_of_fleets_is_named_once(fleet, caplog):
    fleet.hello()
    fleet.sleep(1)
    crowd = Crowd(fleet.broker)
    for number in range(50):
        other = Signer(key_named("rival"), Direction.UP, "board-0", "s9", fleet=f"{number:032x}")
        crowd.transport.publish(topics.up("board-0"), other.seal(Heartbeat("s9")))
        fleet.turn()
    assert caplog.text.count("are on this broker") == 1


def test_what_nobody_signed_puts_no_device_in_quarantine(tmp_path, caplog):
    fleet = Fleet(tmp_path, limits=AllowanceSettings(faults=3))
    fleet.hello()
    stranger = Signer(key_named("stranger"), Direction.UP, "board-0", "s1")
    for _ in range(10):
        for payload in (b"{", stranger.seal(Goodbye("s1")), stranger.seal(b"{}")):
            fleet.agents["board-1"].transport.publish(topics.up("board-0"), payload)
        fleet.agents["board-1"].transport.publish(topics.up_chunk("board-0"), b"x")
    fleet.turn()
    row = fleet.store.devices.all()[0]
    assert (row.device, row.quarantine) == ("board-0", "")
    assert fleet.service._registry.online("board-0")
    assert caplog.text.count("which it has not signed") == 1
    fleet.service.close()


def test_an_agent_of_protocol_1_is_told_to_update(fleet, caplog):
    transport = LoopTransport(fleet.broker, "old")
    transport.open((topics.down("old"),))
    hello = encode(msgspec.structs.replace(Hello("old", "key", "s1", "0", []), protocol=2))
    transport.publish(topics.up("old"), hello)
    fleet.turn()
    transport.receive(0)
    welcome = decode_down(transport.receive(0).payload)
    assert welcome.enrolment is Enrolment.REJECTED
    assert "speaks protocol 1, and this coordinator 2 to 2" in welcome.reason
    assert "speaks protocol 1" in caplog.text
    assert "old" not in [row.device for row in fleet.store.devices.all()]


def test_an_agent_of_protocol_1_waits_while_others_are_answered(fleet, monkeypatch):
    transport = LoopTransport(fleet.broker, "old")
    transport.open((topics.down("old"),))
    monkeypatch.setattr(LoopTransport, "window_free", 1)
    transport.publish(topics.up("old"), encode(Hello("old", "key", "s1", "0", [])))
    fleet.turn()
    assert transport.receive(0) == Connected()
    assert transport.receive(0) is None


def test_two_boards_of_one_identity_are_named(fleet, caplog):
    fleet.hello()
    first = fleet.agents["board-0"]
    transport = LoopTransport(fleet.broker, "clone-client")
    clone = Agent(None, "board-0", fleet.directory / "clone", session="s7", transport=transport)
    for agent in (clone, first, clone):
        agent.hello()
        for _ in range(3):
            fleet.turn()
            clone.pump()
    assert "two boards have the identity of board-0" in caplog.text
    (row,) = [row for row in fleet.store.devices.all() if row.device == "board-0"]
    assert "two boards" in row.trouble
    said = [welcome.reason for agent in (first, clone) for welcome in seen(agent, Welcome)]
    assert any("another board has the identity" in reason for reason in said)
    fleet.clock.now += 3601.0
    fleet.turn()
    (row,) = [row for row in fleet.store.devices.all() if row.device == "board-0"]
    assert row.trouble == ""


def test_a_second_coordinator_with_the_same_key_is_named(fleet, caplog):
    fleet.hello()
    agent = fleet.agents["board-0"]
    agent.channel.peer = "another1"
    agent.heartbeat()
    fleet.turn()
    assert "another coordinator has the key of fleet" in caplog.text
    caplog.clear()
    fleet.broker._clients[fleet.transport.client_id]._lose("Session taken over", CauseKind.SESSION)
    fleet.service.poll(0)
    assert "another client has taken over this coordinator's connection" in caplog.text


def test_the_operator_lets_a_new_key_in_once(fleet):
    fleet.hello()
    agent = fleet.agents["board-0"]
    operator = Store(fleet.directory / "state")
    operator.devices.rekey("board-0")
    fleet.sleep(1)
    agent.key, agent.session = "a new card", "s5"
    agent.begin()
    agent.hello()
    fleet.turn()
    assert seen(agent, Welcome)[-1].enrolment is Enrolment.ACCEPTED
    pin = operator.devices.pins()[0]
    assert (pin.public_key, pin.rekey) == (public_key_of("a new card"), False)
    agent.key, agent.session = "a third one", "s6"
    agent.begin()
    agent.hello()
    fleet.turn()
    assert seen(agent, Welcome)[-1].enrolment is Enrolment.REJECTED
    operator.close()


@pytest.mark.parametrize("auto_accept", [True, False])
def test_a_device_that_was_forgotten_is_a_newcomer_and_its_runs_stay(tmp_path, auto_accept):
    fleet = Fleet(tmp_path, auto_accept=True)
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    fleet.config = Fleet(tmp_path / "other", devices=0, auto_accept=auto_accept).config
    fleet.start()
    fleet.turn()
    operator = Store(tmp_path / "state")
    operator.devices.forget_known("board-0")
    assert [row.device for row in operator.devices.all()] == ["board-1", "board-2"]
    agent = fleet.agents["board-0"]
    agent.silent = True
    fleet.sleep(1)
    assert not fleet.service._registry.accepted("board-0")
    agent.silent, agent.key, agent.session = False, "another board", "s8"
    agent.begin()
    agent.hello()
    fleet.sleep(2)
    wanted = Enrolment.ACCEPTED if auto_accept else Enrolment.PENDING
    (row,) = [row for row in operator.devices.all() if row.device == "board-0"]
    assert row.enrolment == wanted
    assert seen(agent, Welcome)[-1].enrolment is wanted
    assert [task.device for task in operator.tasks.of(run)] == ["board-0", "board-1", "board-2"]
    operator.close()
    fleet.service.close()


def test_a_wiped_coordinator_says_nothing_of_results_that_it_does_not_know(fleet):
    """The same fleet's key in an empty directory: an older backup, or a database that was lost."""
    hold_back(fleet, *fleet.agents)
    fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    fleet.directory = fleet.directory / "restored"
    fleet.start()
    fleet.sleep(6)
    for agent in fleet.agents.values():
        agent.holds_results = False
        agent.offer_results()
        agent.status(TaskState.RUNNING, next(iter(agent.outbox.values()))[0])
    fleet.sleep(2)
    for agent in fleet.agents.values():
        assert len(agent.outbox) == 1
        assert not seen(agent, ResultVerdict)
        assert not seen(agent, TaskCancel)


def test_every_message_down_is_signed_for_one_session(fleet):
    recorder = Recorder(fleet.broker)
    fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    down = [event for event in recorder.heard() if event.topic.endswith("/down")]
    envelopes = [unseal(event.payload) for event in down]
    assert len(envelopes) > 9
    assert all(envelope.signed_by(fleet.key.public, Direction.DOWN) for envelope in envelopes)
    assert {envelope.peer for envelope in envelopes} == {"s1"}
    counters = [envelope.counter for envelope in envelopes]
    assert counters == sorted(set(counters))
