"""Everything that lies in an agent's state directory is damaged, one at a time, each in every way."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from tests.edge_agent.rig import Rig
from tests.kills import damage
from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent.state_directory import sweep
from tinyfleet.edge_agent.status import read as read_status
from tinyfleet.edge_agent.worker.masks import MaskStore
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.messages import ChunkRequest, ResultOffer, TaskState

FILES = {
    "governor.json": "governor.json",
    "status.json": "status.json",
    "a result": "outbox/*.blob",
    "its description": "outbox/*.json",
    "a task": "inbox/*.task",
    "part of a task": "inbox/*.part/*.part",
    "its marks": "inbox/*.part/*.have",
    "a run's name": "masks/*/run",
}
FOLDERS = {"outbox": "outbox", "inbox": "inbox", "a partial task": "inbox/*.part", "masks": "masks", "work": "work"}
NEXT = bytes(range(200)) * 2000  # several chunks


def in_the_middle(state):
    """One result waits for its verdict, and of the next task's blob one chunk has come."""
    rig = Rig(state)
    sweep(state)
    rig.accepted()
    rig.training(0)
    rig.governor.over_budget(rig.agent.assignment.task.spec, rig.agent.assignment.task.limits, *_known())
    rig.worker.finish(b"R" * 150_000)
    rig.settle()
    serve = rig.coordinator.serve
    rig.coordinator.serve = lambda request: serve(ChunkRequest(request.sha256, 0, 1))
    rig.coordinator.offer(1, NEXT)
    rig.settle()
    rig.coordinator.serve = serve
    return rig


def _known():
    from tinyfleet.edge_agent.worker.budget import Stage
    from tinyfleet.edge_agent.worker.commands import Chosen

    return Chosen(ways=4), Stage.TRAINING


def cases():
    found = [(name, hurt) for name in FILES for hurt in damage.OF_FILES]
    return found + [(name, hurt) for name in FOLDERS for hurt in damage.OF_FOLDERS]


def fetched(rig, offer):
    """What the coordinator gets of a result."""
    rig.coordinator.chunks.clear()
    rig.coordinator.say(ChunkRequest(offer.manifest.sha256, 0, 8))
    rig.settle()
    return b"".join(rig.coordinator.chunks[index] for index in sorted(rig.coordinator.chunks))


def killed_and_started(rig):
    """As the daemon does: what is in the way goes first."""
    rig.transport.close()
    rig.workers.clear()
    sweep(rig.state)
    rig.coordinator.heard.clear()
    rig.start()
    rig.accepted()


def a_third_by_default(every):
    """The others are slow tests."""
    return [pytest.param(*case, marks=[pytest.mark.slow] if n % 3 else []) for n, case in enumerate(every)]


@pytest.mark.parametrize(
    ("name", "hurt"), a_third_by_default(cases()), ids=lambda value: getattr(value, "__name__", value)
)
def test_one_damaged_thing_costs_nothing_that_cannot_be_done_again(tmp_path, name, hurt):
    rig = in_the_middle(tmp_path)
    (path,) = tmp_path.glob({**FILES, **FOLDERS}[name])
    hurt(path)
    killed_and_started(rig)
    if not rig.coordinator.of(ResultOffer):
        assert name in ("a result", "its description", "outbox")
        rig.training(0)  # the coordinator hears that nothing is waiting, and offers it again
        rig.worker.finish(b"R" * 150_000)
        rig.settle()
    (offer, *_) = rig.coordinator.of(ResultOffer)
    assert fetched(rig, offer) == b"R" * 150_000
    rig.coordinator.verdict(0)
    rig.training(1, blob=NEXT)
    rig.worker.finish(b"S" * 10)
    rig.settle()
    assert rig.coordinator.states[-1] is TaskState.FINISHED
    assert read_status(tmp_path / "status.json").link == "accepted"


@pytest.mark.parametrize(
    ("name", "hurt"), a_third_by_default(cases()), ids=lambda value: getattr(value, "__name__", value)
)
def test_damage_while_it_runs_does_not_end_the_agent(tmp_path, name, hurt):
    rig = in_the_middle(tmp_path)
    (path,) = tmp_path.glob({**FILES, **FOLDERS}[name])
    hurt(path)
    offer = rig.coordinator.of(ResultOffer)[-1]
    rig.coordinator.say(ChunkRequest(offer.manifest.sha256, 0, 8))
    rig.settle(1.0)
    rig.settle(20.0)
    rig.agent.assignment.cancelled("r", 1, "the test's")
    rig.settle(1.0)
    # Whatever is left of it, the next start is as ever.
    killed_and_started(rig)
    rig.training(2, blob=b"another")
    rig.worker.finish()
    rig.settle()
    assert rig.coordinator.states[-1] is TaskState.FINISHED


@pytest.mark.parametrize("hurt", [h for h in damage.OF_FILES if h is not damage.lock_up])
def test_a_damaged_mask_is_no_mask_and_is_written_anew(tmp_path, hurt):
    store = MaskStore(tmp_path / "masks")
    mask = {"layer": np.arange(64).reshape(8, 8) % 3 == 0}
    digest = store.put(mask)
    (path,) = (tmp_path / "masks").glob("*.mask")
    hurt(path)
    assert store.get(digest) is None
    assert store.put(mask) == digest
    assert np.array_equal(store.get(digest)["layer"], mask["layer"])


@pytest.mark.parametrize("hurt", [damage.truncate, damage.empty, damage.garbage, damage.become_a_folder])
def test_a_damaged_identity_is_named_with_the_remedy(tmp_path, hurt):
    identity.obtain(tmp_path)
    hurt(tmp_path / identity.FILE_NAME)
    with pytest.raises(ConfigError, match=r"identity\.json: unreadable identity .*; restore it, or remove it"):
        identity.obtain(tmp_path)


def test_damage_is_named_in_the_log(tmp_path, caplog):
    rig = in_the_middle(tmp_path)
    for pattern in ("outbox/*.blob", "masks/*", "governor.json"):
        (path,) = tmp_path.glob(pattern)
        (damage.become_a_file if path.is_dir() else damage.become_a_folder)(path)
    with caplog.at_level(logging.WARNING):
        killed_and_started(rig)
        rig.training(0)
    said = caplog.text
    assert "outbox: blob of run r step 0 is damaged" in said
    assert "governor.json is a folder: it is replaced by a file" in said
    assert "is no folder: it is replaced by one" in said
