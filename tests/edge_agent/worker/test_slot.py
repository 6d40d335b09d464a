from __future__ import annotations

from tinyfleet.edge_agent.worker.commands import TaskFailed


def test_a_warm_worker_is_not_shared_between_runs_and_not_kept_for_ever(warm_rig):
    rig = warm_rig
    rig.training(0)
    rig.worker.finish()
    rig.settle()
    rig.training(0, run="other")
    assert [worker.closed for worker in rig.workers] == [True, False]
    rig.worker.finish()
    rig.settle()
    rig.settle(599.0)
    assert not rig.worker.closed
    rig.settle(2.0)
    assert rig.worker.closed


def test_a_warm_worker_that_dies_idle_costs_nothing(warm_rig):
    rig = warm_rig
    rig.training(0)
    rig.worker.finish()
    rig.settle()
    rig.worker.events.append(TaskFailed("WorkerDied", "SIGKILL"))
    rig.settle()
    rig.training(1, blob=b"next")
    assert len(rig.workers) == 2
