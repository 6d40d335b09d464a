"""What devices send, whatever it is, costs at most themselves."""

from __future__ import annotations

import sqlite3

import pytest

from tests.coordinator.crowd import Crowd
from tests.coordinator.toy import InstantEngine, toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back, seen
from tests.signing import Signer, key_named
from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.run.engine_process import EngineFailed, EngineProcess, Evaluated
from tinyfleet.coordinator.store.store import Store
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Enrolment,
    TaskOffer,
    TaskState,
    TaskStatus,
    Welcome,
)
from tinyfleet.fedcore.protocol.signed.envelope import Direction

HELLO = b'{"type":"hello","name":"x","public_key":"k","session":"s","agent_version":"0","engines":[],"profile":%s}'
BEAT = b'{"type":"heartbeat","session":"s1","health":{"rss_bytes":%s}}'
HOSTILE = [
    *(HELLO % (b'{"title":' + b"[" * depth + b"]" * depth + b"}") for depth in (20, 930, 990, 30000)),
    HELLO % (b'{"cores":1' + b"0" * 400 + b"}"),
    HELLO % b'{"measured":{"convolution_gflops":1e308}}',
    *(BEAT % figure for figure in (b"1e300", b"-1e300", b"1e400", b"1" + b"0" * 5000, b"null", b"NaN")),
    b'{"type":"heartbeat","session":"s1","task":["' + b"x" * 60000 + b'",1]}',
    b'{"type":"heartbeat","session":"s1","task":["x",1' + b"0" * 3000 + b"]}",
    b'{"type":"task_status","run":"x","step":0,"state":"running","loss":1e999}',
    b'{"type":"goodbye","session":"s1","reason":"\\ud800"}',
]


def settle(fleet):
    """Handle all that waits: ``turn`` stops where nobody answers."""
    while len(fleet.transport._events):
        fleet.service.poll(0)
    fleet.turn()


def devices(fleet):
    return {row.device: row for row in fleet.store.devices.all()}


@pytest.mark.parametrize("auto_accept", [True, False])
def test_hostile_messages_of_strangers_and_members_cost_nobody_else(tmp_path, auto_accept):
    fleet = Fleet(tmp_path, auto_accept=True)
    fleet.hello()
    fleet.vanish()
    fleet.config = Fleet(tmp_path / "other", devices=0, auto_accept=auto_accept).config
    fleet.start()
    fleet.hello()
    member = fleet.agents["board-0"]
    for name in ("stranger", "board-0"):
        for payload in HOSTILE:
            member.transport.publish(topics.up(name), payload)
            member.transport.publish(topics.up_chunk(name), payload)
            stranger = Signer(key_named("stranger"), Direction.UP, name, "s1")
            member.transport.publish(topics.up(name), stranger.seal(payload))
    for payload in HOSTILE:
        member.say_json(payload)
    fleet.turn()
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    fleet.sleep(70)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) in (
        expected_state(spec, fleet.agents),
        expected_state(spec, ["board-1", "board-2"]),
    )
    fleet.service.close()


def broken(*_):
    raise RuntimeError("a defect\nINFO all is well")


def test_a_defect_costs_the_message_and_then_its_sender_for_a_while(tmp_path, monkeypatch, caplog):
    fleet = Fleet(tmp_path, limits=AllowanceSettings(faults=3, quarantine_s=60.0))
    fleet.hello()
    agent = fleet.agents["board-0"]
    with monkeypatch.context() as patch:
        patch.setattr(fleet.service._scheduler, "on_status", broken)
        for _ in range(3):
            agent.say(TaskStatus("x", 0, TaskState.RUNNING))
        fleet.turn()
    reason = devices(fleet)["board-0"].quarantine
    assert reason.startswith("3 faults, the last a TaskStatus: RuntimeError")
    assert reason.isprintable()
    assert [name for name, row in devices(fleet).items() if row.quarantine] == ["board-0"]
    assert "board-0 is quarantined for 60 s" in caplog.text
    fleet.sleep(1)
    heard = devices(fleet)["board-0"].last_seen
    fleet.sleep(30)
    assert devices(fleet)["board-0"].last_seen == heard, "its heartbeats are dropped unread"
    assert not devices(fleet)["board-0"].online
    assert devices(fleet)["board-1"].online
    fleet.sleep(31)
    assert devices(fleet)["board-0"].quarantine == ""
    assert devices(fleet)["board-0"].online
    fleet.service.close()


def test_faults_that_are_long_ago_do_not_count(tmp_path):
    fleet = Fleet(tmp_path, limits=AllowanceSettings(faults=3, quarantine_s=60.0))
    fleet.hello()
    for _ in range(5):
        fleet.agents["board-0"].say_json(b"{}")
        fleet.sleep(31)
    assert devices(fleet)["board-0"].quarantine == ""
    fleet.service.close()


def test_a_disk_that_fails_still_ends_the_program(fleet, monkeypatch):
    fleet.hello()

    def full(*_):
        raise StoreError("the disk is full")

    monkeypatch.setattr(fleet.service._scheduler, "on_status", full)
    fleet.agents["board-0"].say(TaskStatus("x", 0, TaskState.RUNNING))
    with pytest.raises(StoreError):
        fleet.turn()


def test_a_full_disk_is_no_devices_fault(tmp_path, monkeypatch, caplog):
    fleet = Fleet(tmp_path, limits=AllowanceSettings(faults=2, quarantine_s=60.0))
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    fleet.sleep(1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fleet.service._downloads, "begin", full)
        for _ in range(5):
            fleet.sleep(1)
            for agent in fleet.agents.values():
                agent.offer_results()
            fleet.turn()
    assert "ResultOffer dropped, it cannot be kept: [Errno 28] No space left on device" in caplog.text
    assert not any(row.quarantine for row in devices(fleet).values())
    for agent in fleet.agents.values():
        agent.offer_results()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    assert fleet.state_bytes(run) == expected_state(spec, fleet.agents)
    fleet.service.close()


def test_a_quarantine_does_not_outlive_the_process(tmp_path):
    fleet = Fleet(tmp_path, limits=AllowanceSettings(faults=1))
    fleet.hello()
    fleet.agents["board-0"].say_json(b"{}")
    fleet.turn()
    assert devices(fleet)["board-0"].quarantine
    fleet.vanish()
    fleet.start()
    assert not devices(fleet)["board-0"].quarantine
    fleet.service.close()


# -- rows that cannot be read -------------------------------------------------------------


DEEP = '{"a":' + "[" * 960 + "]" * 960 + "}"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("profile", DEEP),
        ("profile", "{"),
        ("profile", "[]"),
        ("profile", '{"cores":1' + "0" * 400 + "}"),
        ("health", '{"rss_bytes":null}'),
        ("health", DEEP),
        ("engines", "{}"),
        ("enrolment", "no such word"),
    ],
)
def test_a_damaged_row_of_a_device_is_named_once_and_costs_nobody_else(tmp_path, caplog, column, value):
    fleet = Fleet(tmp_path)
    fleet.hello()
    fleet.sleep(1)
    fleet.vanish()
    with sqlite3.connect(tmp_path / "state" / "coordinator.db") as connection:
        connection.execute(f"UPDATE devices SET {column} = ? WHERE device = 'board-0'", (value,))  # noqa: S608
    fleet.start()
    if column != "enrolment":
        assert list(devices(fleet)) == ["board-1", "board-2"]
    assert list(devices(fleet))[-1] == "board-2"
    assert caplog.text.count("the row of board-0 in devices cannot be read") == 1
    fleet.agents["board-1"].hello()
    fleet.agents["board-2"].hello()
    spec = toy_spec(rounds=1)
    run = fleet.store.runs.submit(spec)
    fleet.agents["board-0"].silent = True
    fleet.sleep(40)
    assert fleet.state_bytes(run) == expected_state(spec, ["board-1", "board-2"])
    fleet.service.close()


def test_a_damaged_run_fails_alone_and_can_be_stopped(tmp_path, caplog):
    fleet = Fleet(tmp_path)
    fleet.hello()
    damaged = [fleet.store.runs.submit(toy_spec()) for _ in range(2)]
    with sqlite3.connect(tmp_path / "state" / "coordinator.db") as connection:
        for run in damaged:
            connection.execute("UPDATE runs SET spec = ? WHERE run = ?", (DEEP, run))
    operator = Store(tmp_path / "state")
    operator.runs.request_stop(damaged[1])
    assert operator.runs.names() == damaged
    spec = toy_spec(rounds=1)
    sound = operator.runs.submit(spec)
    fleet.sleep(3)
    assert [operator.runs.state(run) for run in (*damaged, sound)] == ["failed", "stopped", "finished"]
    assert [row.run for row in operator.runs.all()] == [sound]
    assert caplog.text.count(f"the row of {damaged[0]} in runs cannot be read") >= 1
    assert fleet.state_bytes(sound) == expected_state(spec, fleet.agents)
    operator.close()
    fleet.service.close()


# -- an evaluation that is no number ------------------------------------------------------


class Diverged(InstantEngine):
    """Answers every evaluation as the engine process does where the model has diverged."""

    def evaluate(self, spec, step, state):
        self.evaluated.append(step)
        self.events.append(EngineFailed("the test loss is not a finite number: the model has diverged"))


def test_a_step_that_cannot_be_measured_says_why_and_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.coordinator.toy_fleet.InstantEngine", Diverged)
    fleet = Fleet(tmp_path)
    run = fleet.store.runs.submit(toy_spec(rounds=2))
    fleet.hello()
    fleet.sleep(1)
    assert fleet.store.runs.get(run).state == "finished"
    rows = fleet.store.steps.of(run)
    assert [row.test_accuracy for row in rows] == [None, None]
    assert all("diverged" in row.evaluation for row in rows)
    fleet.service.close()


@pytest.mark.parametrize("figures", [{"loss": None}, {"accuracy": None}, {"loss": "1"}, {"loss": float("nan")}])
def test_the_engines_null_is_no_evaluation(tmp_path, monkeypatch, figures):
    process = EngineProcess()

    class Answering:
        """Answers once each time that it is asked."""

        asked = 0

        def send(self, message):
            self.asked += 1

        def receive(self):
            if not self.asked:
                return None
            self.asked -= 1
            return {"event": "evaluated", "step": 3, "loss": 0.5, "accuracy": 0.75} | figures

    monkeypatch.setattr(process, "_child", Answering())
    process.evaluate(toy_spec(), 3, tmp_path / "state")
    answer = process.poll()
    assert isinstance(answer, EngineFailed)
    assert "not a finite number" in answer.reason
    monkeypatch.setitem(figures, "loss", 0.5)
    monkeypatch.setitem(figures, "accuracy", 0.75)
    process.evaluate(toy_spec(), 3, tmp_path / "state")
    assert process.poll() == Evaluated(3, 0.5, 0.75)


# -- how much one may ask -----------------------------------------------------------------


def test_an_allowance_is_what_it_says():
    allowance = Allowance(per_s=2.0, at_once=4.0, now=10.0)
    assert [allowance.take(1.0, 10.0) for _ in range(5)] == [True] * 4 + [False]
    assert [allowance.take(1.0, 11.0) for _ in range(3)] == [True, True, False]
    assert not allowance.take(4.5, 1000.0), "more than it ever holds"
    assert allowance.take(4.0, 1000.0)


def test_hellos_beyond_the_allowance_are_neither_written_nor_answered(tmp_path):
    fleet = Fleet(tmp_path, devices=2, limits=AllowanceSettings(hellos_per_s=1.0, hellos_at_once=10.0))
    fleet.hello()
    greedy = fleet.agents["board-0"]
    for _ in range(100):
        greedy.hello()
        fleet.turn()
    assert len(seen(greedy, Welcome)) == 10
    fleet.clock.now += 5.0
    for name in ("board-0", "board-1"):
        fleet.agents[name].hello()
    fleet.turn()
    assert len(seen(greedy, Welcome)) == 11
    assert len(seen(fleet.agents["board-1"], Welcome)) == 2
    fleet.service.close()


def test_the_same_chunks_are_not_sent_again_and_again(tmp_path):
    fleet = Fleet(tmp_path, devices=1)
    agent = fleet.agents["board-0"]
    agent.behaviour = lambda *_: None
    fleet.store.runs.submit(toy_spec(rounds=1, width=400))
    fleet.hello()
    fleet.sleep(1)
    (offer,) = seen(agent, TaskOffer)[-1:]
    count, before = offer.manifest.count, agent.transport.bytes_received
    for _ in range(1500):
        agent.say(ChunkRequest(offer.manifest.sha256, 0, 1024))
    settle(fleet)
    copies = (agent.transport.bytes_received - before) / offer.manifest.size
    assert copies < 9, f"{copies:.1f} copies of {count} chunks"
    fleet.clock.now += 10.0
    before = agent.transport.bytes_received
    agent.say(ChunkRequest(offer.manifest.sha256, 0, 1))
    fleet.turn()
    assert agent.transport.bytes_received > before, "later it may ask again"
    fleet.service.close()


def test_whoever_is_accepted_and_talks_on_and_on_fills_no_log(fleet, caplog):
    caplog.set_level("INFO")
    hold_back(fleet, *fleet.agents)
    fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(1)
    agent = fleet.agents["board-0"]
    (offer,) = seen(agent, TaskOffer)
    caplog.clear()
    for _ in range(100):
        agent.goodbye()
        agent.heartbeat()
        agent.say(ChunkRequest("0" * 64, 0, 1))
        for paused_s in (0.0, 500.0):
            agent.status(TaskState.PAUSED, offer, "hot", paused_s=paused_s)
            agent.status(TaskState.RUNNING, offer, paused_s=paused_s)
        fleet.turn()
        fleet.clock.now += 0.05
    settle(fleet)
    assert len(caplog.records) < 50


def test_new_names_are_bounded_and_one_that_stays_outlives_those_that_do_not(tmp_path):
    limits = AllowanceSettings(pending=20, strangers_at_once=10_000.0)
    fleet = Fleet(tmp_path, devices=2, auto_accept=False, limits=limits)
    fleet.hello()
    fleet.sleep(1)
    operator = Store(tmp_path / "state")
    operator.devices.set_enrolment("board-0", Enrolment.ACCEPTED)
    operator.close()
    fleet.sleep(1)
    crowd = Crowd(fleet.broker)
    for number in range(500):
        crowd.greet(f"s{number}", fleet.turn)
    fleet.sleep(1)
    names = set(devices(fleet))
    assert len(names) == 21
    assert {"board-0", "board-1"} <= names, "the accepted, the one that sends heartbeats"
    assert seen(fleet.agents["board-1"], Welcome)[-1].enrolment is Enrolment.PENDING
    fleet.vanish()
    fleet.start()
    assert set(devices(fleet)) == names
    fleet.service.close()


def test_of_strangers_so_many_a_second_are_read_and_the_accepted_are_all_read(tmp_path, caplog):
    limits = AllowanceSettings(strangers_per_s=10.0, strangers_at_once=20.0)
    fleet = Fleet(tmp_path, devices=2, auto_accept=False, limits=limits)
    operator = Store(tmp_path / "state")
    fleet.hello()
    fleet.sleep(1)
    operator.devices.set_enrolment("board-0", Enrolment.ACCEPTED)
    fleet.sleep(10)
    caplog.clear()
    for number in range(500):
        fleet.transport._take(topics.up(f"s{number}"), HELLO % b"{}")
        fleet.transport._take(topics.up(f"g{number}"), b"{")
    fleet.agents["board-0"].hello()
    settle(fleet)
    assert len(seen(fleet.agents["board-0"], Welcome)) == 3
    fleet.sleep(1)
    assert len(devices(fleet)) <= 2 + 20
    assert len([r for r in caplog.records if "nobody has accepted" in r.message]) <= 3, "told all together"
    fleet.agents["board-1"].session = "s2"
    fleet.agents["board-1"].hello()
    fleet.turn()
    fleet.sleep(1)
    assert seen(fleet.agents["board-1"], Welcome), "after the flood a stranger is heard"
    operator.close()
    fleet.service.close()


def test_auto_accept_lets_so_many_in_and_the_rest_wait_for_the_operator(tmp_path):
    limits = AllowanceSettings(auto_accepted=3, pending=4)
    fleet = Fleet(tmp_path, devices=10, auto_accept=True, limits=limits)
    fleet.hello()
    fleet.sleep(1)
    found = [row.enrolment for row in devices(fleet).values()]
    assert (found.count("accepted"), found.count("pending")) == (3, 4)
    fleet.vanish()
    fleet.start()
    found = [row.enrolment for row in devices(fleet).values()]
    assert (found.count("accepted"), found.count("pending")) == (3, 4), "nor at the next start"
    fleet.service.close()
