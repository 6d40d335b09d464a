"""How much one may ask: of the coordinator, of its disk, and of its log."""

from __future__ import annotations

from tests.coordinator.crowd import Crowd
from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, devices, hold_back, seen, settle
from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.store.store import Store
from tinyfleet.coordinator.wire.allowance import Allowance
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import (
    ChunkRequest,
    Enrolment,
    TaskOffer,
    TaskState,
    Welcome,
)


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
        fleet.transport._take(topics.up(f"s{number}"), b'{"type":"hello"}')
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
