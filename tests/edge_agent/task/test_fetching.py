from __future__ import annotations

from tinyfleet.fedcore.protocol.messages import ChunkRequest, TaskState, TaskStatus


def test_a_lease_that_runs_out_while_fetching(rig):
    rig.coordinator.serving = False
    rig.coordinator.offer(lease_s=20.0)
    rig.settle()
    requests = len(rig.coordinator.of(ChunkRequest))
    rig.settle(10.0)
    assert len(rig.coordinator.of(ChunkRequest)) > requests, "asked again after a silence"
    rig.settle(11.0)
    assert rig.coordinator.states[-1] is TaskState.FAILED
    assert "lease" in rig.coordinator.of(TaskStatus)[-1].reason
    rig.coordinator.serving = True
    rig.training(1)
