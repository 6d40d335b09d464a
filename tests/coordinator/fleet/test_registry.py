"""Who may take part: pending, accepted, rejected, and known by one key."""

from __future__ import annotations

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, seen
from tests.signing import public_key_of
from tinyfleet.fedcore.protocol.messages import Enrolment, ResultVerdict, TaskCancel, TaskOffer, Verdict, Welcome


def test_a_rejected_device_takes_no_part(fleet):
    fleet.hello()
    fleet.store.devices.set_enrolment("board-0", Enrolment.REJECTED)
    fleet.vanish()
    fleet.start()
    fleet.hello()
    assert seen(fleet.agents["board-0"], Welcome)[-1].enrolment is Enrolment.REJECTED
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.sleep(6)
    assert fleet.store.runs.get(run).state == "finished"
    assert [task.device for task in fleet.store.tasks.of(run)] == ["board-1", "board-2"]
    assert not seen(fleet.agents["board-0"], TaskOffer)


def test_a_device_that_is_rejected_in_a_step_is_told_and_lost(fleet):
    from tinyfleet.coordinator.store.store import Store

    run = fleet.store.runs.submit(toy_spec(rounds=1))
    agent = fleet.agents["board-0"]
    agent.holds_results = True
    fleet.hello()
    other = Store(fleet.directory / "state")
    other.devices.set_enrolment("board-0", Enrolment.REJECTED)
    other.close()
    held = dict(agent.outbox)
    fleet.sleep(1)
    assert fleet.store.steps.of(run)[0].lost == [{"device": "board-0", "reason": "rejected by the operator"}]
    assert seen(agent, TaskCancel)
    agent.outbox = held
    agent.offer_results()
    fleet.turn()
    assert seen(agent, ResultVerdict)[-1].verdict is Verdict.REFUSED


def test_pending_until_the_operator_decides(tmp_path):
    from tinyfleet.coordinator.store.store import Store

    fleet = Fleet(tmp_path, devices=1, auto_accept=False)
    run = fleet.store.runs.submit(toy_spec(rounds=1))
    fleet.hello()
    fleet.sleep(2)
    agent = fleet.agents["board-0"]
    assert [message.enrolment for message in seen(agent, Welcome)] == [Enrolment.PENDING]
    assert fleet.store.runs.get(run).step == 0
    operator = Store(tmp_path / "state")
    operator.devices.set_enrolment("board-0", Enrolment.ACCEPTED)
    operator.close()
    fleet.sleep(2)
    assert seen(agent, Welcome)[-1].enrolment is Enrolment.ACCEPTED
    assert fleet.store.runs.get(run).state == "finished"
    fleet.service.close()


def test_another_key_under_a_known_name_is_refused(fleet):
    agent = fleet.agents["board-0"]
    fleet.hello()
    agent.goodbye()
    agent.key, agent.session = "another key", "s9"
    agent.begin()
    agent.hello()
    fleet.turn()
    welcome = seen(agent, Welcome)[-1]
    assert welcome.enrolment is Enrolment.REJECTED
    assert "another public key" in welcome.reason
    agent.heartbeat()
    fleet.turn()
    assert not fleet.service._registry.online("board-0")
    pin = fleet.store.devices.pins()[0]
    assert (pin.device, pin.public_key, pin.session) == ("board-0", public_key_of("board-0"), "s1")


def test_an_agent_that_is_too_old_is_told_what_to_update(fleet, monkeypatch, caplog):
    monkeypatch.setattr("tinyfleet.coordinator.fleet.registry.common_protocol", lambda theirs: None)
    fleet.agents["board-0"].hello()
    fleet.turn()
    welcome = seen(fleet.agents["board-0"], Welcome)[-1]
    assert welcome.enrolment is Enrolment.REJECTED
    assert "speaks protocol 2, and this coordinator 2 to 2; update the agent" in welcome.reason
    assert "board-0 is refused" in caplog.text
    assert "board-0" not in [row.device for row in fleet.store.devices.all()]
