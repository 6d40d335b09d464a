"""Events in any order: the agent's invariants hold after each."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.edge_agent.rig import IDENTITY, Rig
from tinyfleet.edge_agent.states import AssignmentState
from tinyfleet.edge_agent.worker.commands import MaskMissing, OverBudget, StepsDone, TaskFailed
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Enrolment, RunEnded, TaskCancel, Verdict

ACTIONS = st.sampled_from(
    [
        "offer 0", "offer 1", "offer 2", "other run", "cancel 0", "cancel 1", "ended", "verdict 0", "verdict 1",
        "refused 0", "drop", "restore", "done", "failed", "over_budget", "needs_mask", "progress", "second",
        "minute", "silence", "speak", "pending", "accepted", "chunks 0", "restart",
    ]
)  # fmt: skip


def act(rig: Rig, action: str) -> None:
    coordinator, worker = rig.coordinator, rig.workers[-1] if rig.workers else None
    busy = rig.agent.assignment.state is AssignmentState.TRAINING
    match action.split():
        case ["offer", step]:
            coordinator.offer(int(step), f"blob {step}".encode())
        case ["other", "run"]:
            coordinator.offer(0, run="q")
        case ["cancel", step]:
            coordinator.say(TaskCancel("r", int(step)))
        case ["ended"]:
            coordinator.say(RunEnded("r"))
        case ["verdict", step]:
            coordinator.verdict(int(step))
        case ["refused", step]:
            coordinator.verdict(int(step), Verdict.REFUSED)
        case ["drop"]:
            rig.broker.drop(IDENTITY.client_id)
        case ["restore"]:
            rig.broker.restore(IDENTITY.client_id)
        case ["done"] if busy:
            worker.finish()
        case ["failed"] if busy:
            worker.events.append(TaskFailed("Error", "because"))
        case ["over_budget"] if busy:
            worker.events.append(OverBudget("because"))
        case ["needs_mask"] if busy:
            worker.events.append(MaskMissing("digest", "because"))
        case ["progress"] if busy:
            worker.events.append(StepsDone(1, 2, 0.1))
        case ["second"]:
            rig.clock.now += 1.0
        case ["minute"]:
            rig.clock.now += 60.0
        case ["silence"]:
            coordinator.serving = False
        case ["speak"]:
            coordinator.serving = True
        case ["pending" | "accepted" as enrolment]:
            coordinator.welcome(Enrolment(enrolment))
        case ["chunks", _]:
            for offer in rig.outbox.offers():
                coordinator.say(ChunkRequest(offer.manifest.sha256, 0, 8))
        case ["restart"]:
            rig.transport.close()
            rig.agent.assignment.stop()
            rig.start()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=25))
def test_any_order_of_events_keeps_the_invariants(tmp_path_factory, actions):
    rig = Rig(tmp_path_factory.mktemp("rig"), policy="warm")
    rig.accepted()
    for action in actions:
        act(rig, action)
        rig.settle(turns=2)
        tasks = rig.agent.assignment
        assert (tasks.state is AssignmentState.IDLE) == (tasks.key is None)
        alive = [worker for worker in rig.workers if not worker.closed]
        assert len(alive) <= 1, "one worker at most"
        if tasks.state is AssignmentState.TRAINING:
            assert len(alive) == 1
            assert alive[0].commands
        keys = [(offer.run, offer.step) for offer in rig.outbox.offers()]
        assert len(keys) == len(set(keys))
        assert tasks.key is None or tasks.key not in keys, "a finished task is not trained again"
    rig.broker.restore(IDENTITY.client_id)
    rig.coordinator.serving = True
    rig.settle(100.0)
    rig.coordinator.welcome()
    rig.coordinator.say(RunEnded("r"))
    rig.coordinator.say(TaskCancel("q", 0))
    rig.settle()
    for step in (0, 1, 2):
        rig.coordinator.verdict(step)
    rig.settle()
    assert rig.agent.assignment.state is AssignmentState.IDLE
    assert rig.outbox.offers() == []
