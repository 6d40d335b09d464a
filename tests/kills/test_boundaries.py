"""Killed before every write and every publish: each run ends as if nothing had been, and nobody had to help.

``TINYFLEET_KILL_RECORDS`` names a directory for what became of each boundary: those that are in it are not done
again. ``TINYFLEET_KILL_BOUNDARIES`` is how many to take, drawn from ``TINYFLEET_KILL_SEED``; 0: all.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from tests.kills.boundary import Boundary, orders, run_to, together, written_down
from tests.kills.fleet import Fleet, small_run, undisturbed
from tests.kills.records import Records
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

AGENTS = 2
SPEC = small_run(AGENTS, rounds=1)
SAMPLE, SEED = 3, int(os.environ.get("TINYFLEET_KILL_SEED", "1"))
MOST = int(os.environ.get("TINYFLEET_KILL_BOUNDARIES", "0"))

pytestmark = pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed")


@pytest.fixture(scope="module")
def sha256() -> str:
    return undisturbed(SPEC)


@pytest.fixture
def fleets(tmp_path) -> Iterator[Callable[[], Fleet]]:
    """Fleets one after another; the last is stopped when the next is made."""
    made: list[Fleet] = []

    def make() -> Fleet:
        if made:
            made[-1].stop()
        name = f"fleet-{len(made)}"
        made.append(Fleet(tmp_path / name, AGENTS, orders=orders(tmp_path / f"{name}-orders")))
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


def survives(boundaries: list[Boundary], fleets: Callable[[], Fleet], sha256: str, records: Records) -> None:
    """Kill at each of them; those of a start in a fleet of their own."""
    fleet: Fleet | None = None
    for group in together(boundaries):
        if fleet is None or group[0].at_start:
            fleet = fleets()
            if not group[0].at_start:
                fleet.start()
                fleet.until_there()
        came, faults = run_to(group, fleet, SPEC, sha256)
        for boundary in group:
            records.add({**asdict(boundary), "came": boundary in came, "faults": faults})
        fleet = None if faults or group[0].at_start else fleet


def check(records: list[dict], wanted: int, came: float) -> None:
    assert len(records) >= wanted
    bad = [record for record in records if record["faults"]]
    assert not bad, f"{len(bad)} of {len(records)}: {bad[:3]}"
    # What the clock brings about, such as a heartbeat, may come less often than in the run that was written down,
    # and a kill before it may take away what would have led to it.
    assert sum(record["came"] for record in records) >= came * len(records)


@pytest.mark.slow
def test_killed_at_a_few_boundaries(fleets, sha256, tmp_path):
    found = [b for b in written_down(fleets(), SPEC) if not b.at_start]
    chosen = random.Random(SEED).sample(found, SAMPLE)
    records = Records("few", tmp_path / "records")
    survives(chosen, fleets, sha256, records)
    check(records.all(), SAMPLE, came=0.3)


@pytest.mark.slow
@pytest.mark.timeout(8 * 3600)
def test_killed_at_every_boundary(fleets, sha256, tmp_path):
    records = Records("boundaries", tmp_path / "records")
    done = {(r["role"], r["label"], r["number"], r["at_start"]) for r in records.all()}
    # The other agent is the first one over again.
    found = [b for b in written_down(fleets(), SPEC) if not b.role.startswith("agent-1")]
    roles = {boundary.role for boundary in found}
    assert {"coordinator", "coordinator/engine", "agent-0", "agent-0/worker"} <= roles, roles
    if MOST:
        found = random.Random(SEED).sample(found, MOST)
    left = [b for b in found if (b.role, b.label, b.number, b.at_start) not in done]
    survives(left, fleets, sha256, records)
    check(records.all(), len(found), came=0.8)
