from __future__ import annotations

from tests.edge_agent.rig import IDENTITY, Rig
from tinyfleet.edge_agent.link import HELLO_REPEAT_S, LONGEST_HELLO_REPEAT_S, MUTE_S, PENDING_HELLO_REPEAT_S
from tinyfleet.edge_agent.state_directory import STATUS
from tinyfleet.edge_agent.states import LinkState
from tinyfleet.edge_agent.status import read
from tinyfleet.fedcore.protocol.messages import Enrolment, Goodbye, Heartbeat, Hello, ResultOffer, Welcome
from tinyfleet.fedcore.protocol.reach.causes import Cause, CauseKind
from tinyfleet.fedcore.protocol.transport import Connected, Disconnected
from tinyfleet.fedcore.protocol.version import OLDEST_PROTOCOL, PROTOCOL


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


def test_a_hello_that_got_lost_comes_again_soon_and_one_that_nobody_answers_seldom(tmp_path):
    rig = Rig(tmp_path)
    rig.settle()
    rig.settle(1.5 * HELLO_REPEAT_S)
    assert len(rig.coordinator.of(Hello)) == 2
    for _ in range(30):
        rig.settle(1.0)
    before = len(rig.coordinator.of(Hello))
    for _ in range(200):
        rig.settle(1.0)
    later = len(rig.coordinator.of(Hello)) - before
    assert 200 / (1.5 * LONGEST_HELLO_REPEAT_S) <= later <= 200 / (0.8 * LONGEST_HELLO_REPEAT_S)
    rig.broker.drop(IDENTITY.client_id)
    rig.settle()
    rig.broker.restore(IDENTITY.client_id)
    rig.settle()
    again = len(rig.coordinator.of(Hello))
    rig.settle(1.5 * HELLO_REPEAT_S)
    assert len(rig.coordinator.of(Hello)) == again + 1, "a new connection, a new beginning"


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
    assert f"speaks protocol {PROTOCOL + 1}, and this agent {OLDEST_PROTOCOL} to {PROTOCOL}" in caplog.text


def lines(caplog, level):
    return [record.getMessage() for record in caplog.records if record.levelname == level]


def test_a_broker_without_a_coordinator_is_told_and_so_is_its_coming(tmp_path, caplog):
    caplog.set_level("INFO")
    rig = Rig(tmp_path)
    rig.settle()
    rig.settle(MUTE_S - 1.0)
    assert not lines(caplog, "WARNING")
    assert read(tmp_path / STATUS).trouble is None
    rig.settle(1.0)
    (warning,) = lines(caplog, "WARNING")
    assert "no coordinator does; start one on this broker" in warning
    assert "write tinyfleet/v1/porch/up and to read tinyfleet/v1/porch/down" in warning
    trouble = read(tmp_path / STATUS).trouble
    assert trouble.kind is CauseKind.COORDINATOR
    assert trouble.reason in warning
    rig.settle(60.0)
    rig.coordinator.welcome()
    rig.settle()
    assert lines(caplog, "INFO")[-1] == "the coordinator answers again, after 60 s"
    assert lines(caplog, "WARNING") == [warning]
    assert read(tmp_path / STATUS).trouble is None


def test_a_coordinator_that_leaves_is_missed_where_the_broker_tells(rig, caplog, monkeypatch):
    rig.settle()
    monkeypatch.setattr(rig.transport, "unheard", lambda topic: topic == "tinyfleet/v1/porch/up", raising=False)
    rig.settle(1.0)
    rig.settle(MUTE_S)
    assert "no coordinator does" in lines(caplog, "WARNING")[-1]
    monkeypatch.undo()
    rig.settle(1.0)
    assert read(rig.state / STATUS).trouble is None


def test_why_there_is_no_broker_stands_in_log_and_status(rig, caplog):
    caplog.set_level("INFO")
    rig.settle()
    caplog.clear()
    rig.agent.handle(Disconnected("gw:1883: nobody listens on that port; start it", CauseKind.PORT))
    rig.settle(30.0)
    assert lines(caplog, "WARNING") == ["broker gw:1883: nobody listens on that port; start it"]
    status = read(rig.state / STATUS)
    assert (status.link, status.trouble.kind) == ("offline", CauseKind.PORT)
    rig.agent.handle(Connected())
    rig.coordinator.welcome()
    rig.settle()
    assert [line for line in lines(caplog, "INFO") if "again" in line] == [
        "the broker is reached again, after 30 s"
    ]
    assert "enrolment: accepted" not in lines(caplog, "INFO"), "that had been said"


def test_what_the_broker_refuses_is_told(rig, caplog, monkeypatch):
    rig.settle()
    refused = Cause(CauseKind.ACCESS, "gw:1883: the broker refuses publishes to t; let it")
    monkeypatch.setattr(type(rig.transport), "hindrance", refused)
    rig.settle(1.0)
    assert lines(caplog, "WARNING") == [f"broker {refused.reason}"]
    assert read(rig.state / STATUS).trouble.kind is CauseKind.ACCESS


def test_a_new_certificate_is_no_trouble(rig, caplog):
    rig.settle()
    rig.agent.handle(Disconnected("connecting again", None))
    rig.settle(5.0)
    rig.agent.handle(Connected())
    rig.coordinator.welcome()
    rig.settle()
    assert not lines(caplog, "WARNING")


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
