"""What devices send, whatever it is, costs at most themselves."""

from __future__ import annotations

import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, devices, expected_state, hold_back
from tests.signing import Signer, key_named
from tinyfleet.coordinator.config import AllowanceSettings
from tinyfleet.coordinator.errors import StoreError
from tinyfleet.fedcore.protocol import topics
from tinyfleet.fedcore.protocol.messages import (
    TaskState,
    TaskStatus,
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
