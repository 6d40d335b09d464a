"""Everything that lies in a coordinator's state directory is damaged, one at a time, each in every way."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.coordinator.toy import toy_spec
from tests.coordinator.toy_fleet import Fleet, expected_state, hold_back
from tests.kills import damage
from tinyfleet.coordinator.errors import StoreError
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.protocol.messages import ChunkRequest

SPEC = toy_spec(rounds=4, width=300)  # results of several chunks


def in_the_middle(directory):
    """The second step is open: one result is counted, one half here, one still to come. Returns fleet and run."""
    fleet = Fleet(directory)
    run = fleet.store.runs.submit(SPEC)
    hold_back(fleet, *fleet.agents)
    fleet.hello()
    while fleet.store.runs.get(run).step < 1:
        fleet.sleep(1)
        give(fleet)
    fleet.sleep(1)
    fleet.agents["board-0"].offer_results()
    fleet.turn()
    assert fleet.counted() == 1
    halfway(fleet, fleet.agents["board-1"])
    return fleet, run


def give(fleet):
    """All devices hand in what they have."""
    for agent in fleet.agents.values():
        agent.offer_results()
    fleet.turn()


def halfway(fleet, agent):
    """The first chunk of its result arrives, and no other."""
    told = agent._told

    def first_alone(message):
        told(message if not isinstance(message, ChunkRequest) else ChunkRequest(message.sha256, 0, 1))
        agent.silent = isinstance(message, ChunkRequest)

    agent._told = first_alone
    agent.offer_results()
    fleet.turn()
    agent._told, agent.silent = told, False


def kinds(state):
    """One path of each kind: name of the kind -> path in ``state``."""
    found = {}
    for path in sorted(state.rglob("*")):
        parts = path.relative_to(state).parts
        name = "/".join(parts)
        if parts[0] == "blobs":
            name = "blobs" + "/*" * (len(parts) - 1)
            if len(parts) == 3:
                continue
        elif parts[0] == "incoming":
            name = f"incoming{'/*' * (len(parts) - 1)}{path.suffix}"
        found.setdefault(name, path)
    return found


def test_the_cases_are_all_there(tmp_path):
    fleet, _ = in_the_middle(tmp_path)
    assert set(kinds(fleet.store.directory)) == {
        *("coordinator.db", "coordinator.db-wal", "coordinator.db-shm", "coordinator.db.kept", "status.json"),
        *("blobs", "blobs/*", "incoming", "incoming/*", "incoming/*/*.part", "incoming/*/*.have"),
    }


FILES = ("coordinator.db", "coordinator.db-wal", "coordinator.db-shm", "coordinator.db.kept", "status.json")
FILES += ("incoming/*/*.part", "incoming/*/*.have", "the state", "an earlier state", "a result", "a task")
FOLDERS = ("blobs/*", "incoming", "incoming/*")
BY_DEFAULT = ("coordinator.db", "the state", "a result")


def cases():
    """Each thing in each way; by default some, each in another way."""
    for names, ways in ((FILES, damage.OF_FILES), (FOLDERS, damage.OF_FOLDERS)):
        for turn, name in enumerate(names):
            for hurt in ways:
                by_default = name in BY_DEFAULT and hurt is ways[turn % len(ways)]
                yield pytest.param(name, hurt, marks=() if by_default else pytest.mark.slow)


def path_of(name, fleet, run):
    """Where it lies now."""
    store = fleet.store
    match name:
        case "the state":
            return store.state_blob(run)
        case "an earlier state":
            return store.blobs.path(store.steps.base_states(run, 0)[0])
        case "a result":
            return store.blobs.path(store.tasks.counted(run, 1)[0].sha256)
        case "a task":
            return store.blobs.path(next(iter(fleet.service._offered.digests)))
    return kinds(store.directory)[name]


@pytest.mark.parametrize(("name", "hurt"), list(cases()), ids=lambda value: getattr(value, "__name__", value))
def test_one_damaged_thing_costs_nothing_that_cannot_be_done_again(tmp_path, name, hurt):
    fleet, run = in_the_middle(tmp_path / "fleet")
    path, state = path_of(name, fleet, run), fleet.store.directory
    kept = tmp_path / "as it was"
    shutil.copytree(state, kept)  # with its log of writes, as a kill leaves it
    fleet.vanish()
    shutil.rmtree(state)
    kept.rename(state)
    hurt(path)
    fleet.start()
    while fleet.store.runs.get(run).state == "running":
        fleet.sleep(1)
        give(fleet)
        assert fleet.clock.now < 3000.0, "the run goes on for ever"
    row = fleet.store.runs.get(run)
    assert (row.state, row.reason) == ("finished", "")
    assert fleet.state_bytes(run) == expected_state(SPEC, fleet.agents)
    assert [step.results for step in fleet.store.steps.of(run)] == [3] * 4
    fleet.service.close()
    assert not list(state.rglob("*.tmp"))


@pytest.mark.parametrize("hurt", [damage.truncate, damage.empty, damage.garbage, damage.become_a_folder])
def test_without_a_kept_copy_a_damaged_database_is_named(tmp_path, hurt):
    fleet, _ = in_the_middle(tmp_path)
    fleet.vanish()
    (fleet.store.directory / "coordinator.db.kept").unlink()
    hurt(fleet.store.directory / "coordinator.db")
    with pytest.raises(StoreError, match=r"coordinator\.db") as error:
        Store(fleet.store.directory).check_whole()
    assert "backup" in str(error.value) or "state directory" in str(error.value)


def test_a_database_that_was_put_aside_is_named_in_the_status_until_it_is_removed(tmp_path):
    fleet, run = in_the_middle(tmp_path)
    fleet.vanish()
    state = fleet.store.directory
    damage.garbage(state / "coordinator.db")
    with pytest.raises(StoreError, match="the coordinator puts its own copy in the place of a damaged one"):
        Store(state)  # a command beside it may not
    fleet.start()
    status = [
        sys.executable,
        "-c",
        "from tinyfleet.coordinator.cli import main; main()",
        "status",
        "--state",
        state,
    ]
    said = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert f"damage  {state}/coordinator.db.damaged was damaged and its copy took its place" in said
    assert run in said
    (state / "coordinator.db.damaged").unlink()
    assert "damage " not in subprocess.run(status, capture_output=True, text=True, check=True).stdout
