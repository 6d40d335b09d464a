from __future__ import annotations

from tests.edge_agent.rig import IDENTITY, Rig
from tinyfleet.edge_agent.link import HELLO_REPEAT_S, PENDING_HELLO_REPEAT_S
from tinyfleet.edge_agent.states import LinkState
from tinyfleet.fedcore.protocol.messages import Enrolment, Goodbye, Heartbeat, Hello, ResultOffer, Welcome
from tinyfleet.fedcore.protocol.version import PROTOCOL


def test_hello_is_repeated_until_a_welcome_comes(tmp_path):
    rig = Rig(tmp_path)
    rig.settle()
    rig.settle(2 * HELLO_REPEAT_S)
    hellos = rig.coordinator.of(Hello)
    assert len(hellos) == 2
    assert hellos[0] == hellos[1]
    assert (hellos[0].name, hellos[0].public_key, hellos[0].samples) == ("porch", IDENTITY.public_key, 100)
    assert hellos[0].memory_limit_bytes == 100_000_000
    rig.coordinator.welcome()
    rig.settle()
    rig.settle(10 * HELLO_REPEAT_S)
    assert len(rig.coordinator.of(Hello)) == 2
    assert rig.agent.link.state is LinkState.ACCEPTED


def test_heartbeats_keep_the_welcomed_interval_while_training(rig):
    rig.coordinator.welcome(heartbeat_s=2.0)
    rig.training()
    before = len(rig.coordinator.of(Heartbeat))
    for _ in range(10):
        rig.settle(1.0)
    beats = rig.coordinator.of(Heartbeat)[before:]
    assert 4 <= len(beats) <= 6
    assert beats[-1].task == ("r", 0)
    assert beats[-1].health["worker_rss_bytes"] == 77
    assert beats[-1].health["rss_bytes"] > 1_000_000
    assert beats[-1].traffic.sent >= beats[0].traffic.sent


def test_a_stop_says_goodbye_and_ends_the_worker(rig):
    rig.training()
    rig.agent.close()
    rig.coordinator.listen()
    assert rig.coordinator.of(Goodbye)[-1].session == rig.agent.session
    assert rig.worker.closed


def test_losing_the_network_never_stops_training(rig):
    rig.training()
    rig.broker.drop(IDENTITY.client_id)
    rig.settle()
    assert rig.agent.link.state is LinkState.OFFLINE
    rig.worker.finish()
    rig.settle(5.0)
    assert not rig.coordinator.of(ResultOffer)
    assert len(rig.outbox.offers()) == 1
    rig.broker.restore(IDENTITY.client_id)
    rig.settle()
    hello = rig.coordinator.of(Hello)[-1]
    assert hello.task == ("r", 0)
    assert len(rig.coordinator.of(ResultOffer)) == 1


def test_a_coordinator_of_another_age_is_not_obeyed(rig, caplog):
    rig.coordinator.say(Welcome(Enrolment.ACCEPTED, protocol=PROTOCOL + 1))
    rig.settle()
    assert rig.agent.link.state is LinkState.REJECTED
    assert f"speaks protocol {PROTOCOL + 1}, and this agent 1 to {PROTOCOL}" in caplog.text


def test_who_waits_for_the_operator_says_hello_now_and_then(rig):
    """A coordinator that many strangers greet forgets some of them, and those do not hear of it."""
    rig.coordinator.welcome(Enrolment.PENDING)
    rig.settle()
    before = len(rig.coordinator.of(Hello))
    rig.settle(PENDING_HELLO_REPEAT_S / 4)
    assert len(rig.coordinator.of(Hello)) == before
    for _ in range(10):
        rig.settle(PENDING_HELLO_REPEAT_S / 2)
    assert 3 <= len(rig.coordinator.of(Hello)) - before <= 10
    rig.coordinator.welcome()
    rig.settle()
    before = len(rig.coordinator.of(Hello))
    rig.settle(10 * PENDING_HELLO_REPEAT_S)
    assert len(rig.coordinator.of(Hello)) == before
