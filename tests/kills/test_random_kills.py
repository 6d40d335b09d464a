"""Anything is killed at any instant: coordinator, agents, workers, pre-training and evaluation, the broker, all.

``TINYFLEET_KILLS`` is how many kills, ``TINYFLEET_KILL_SEED`` what they are drawn from, ``TINYFLEET_KILL_RECORDS``
a directory for what became of each run: kills that are in it are not done again.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest

from tests.kills.fleet import ENDED, Fleet, small_run, undisturbed
from tests.kills.records import Records
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker

KILLS = int(os.environ.get("TINYFLEET_KILLS", "500"))
SEED = int(os.environ.get("TINYFLEET_KILL_SEED", "1"))
AGENTS = 2
A_RUN = 10  # kills
RUNS_OF_A_FLEET = 10
SPEC = small_run(AGENTS, rounds=3, pretrain_epochs=20)
# The engine process pre-trains for the first part of a run and evaluates in the rest of it.
TARGETS = {"coordinator": 4, "agent": 4, "worker": 4, "engine": 3, "pre-training": 2, "broker": 2, "all": 1}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(8 * 3600),
    pytest.mark.skipif(not MosquittoBroker.available(), reason="Mosquitto is not installed"),
]


class Storm:
    """Kills in one run, at instants drawn from ``rng`` over ``length_s`` seconds."""

    def __init__(self, fleet: Fleet, store: Store, rng: random.Random, length_s: float) -> None:
        self._fleet, self._store, self._rng, self._length_s = fleet, store, rng, length_s
        self.done: list[str] = []

    def run(self, kills: int) -> str:
        """Submit, kill so often, and see the run to its end; returns its name."""
        run = self._store.runs.submit(SPEC)
        began, waited = time.monotonic(), 0.0
        for instant in sorted(self._rng.uniform(0.0, self._length_s) for _ in range(kills)):
            # What a kill costs is not taken from the rest: the run is behind by it.
            while time.monotonic() < began + waited + instant and self._under_way(run):
                time.sleep(0.005)
            if not self._under_way(run):
                break
            hit = time.monotonic()
            self._kill(run)
            self._until_all_are_there()
            waited += time.monotonic() - hit
        self._fleet.until_ended(self._store, run)
        return run

    def _under_way(self, run: str) -> bool:
        return self._store.runs.get(run).state not in ENDED

    def _kill(self, run: str) -> None:
        """One target, chosen among those that are there."""
        target = self._rng.choices(list(TARGETS), list(TARGETS.values()))[0]
        agent = self._rng.choice(self._fleet.agents)
        preparing = self._store.runs.get(run).state in ("submitted", "preparing")
        if target == "pre-training" and not preparing:
            target = "engine"
        if target in ("engine", "pre-training") and not self._fleet.kill_child("coordinator"):
            target = "coordinator"
        if target == "worker" and not self._fleet.kill_child(agent):
            target = "agent"
        if target in ("coordinator", "agent", "broker"):
            self._fleet.kill(agent if target == "agent" else target)
        elif target == "all":
            for name in ("broker", *self._fleet.daemons):
                self._fleet.kill(name)
        away_s = self._rng.choice((0.0, self._rng.uniform(0.0, 1.5)))
        time.sleep(away_s)
        if target in ("broker", "all"):
            self._fleet.restart_broker()
        self._fleet.tend()
        self.done.append(f"{target}{' while preparing' if preparing else ''}, away {away_s:.1f} s")

    def _until_all_are_there(self) -> None:
        """Half of the kills come while others are still coming back."""
        if self._rng.random() < 0.5:
            self._fleet.until_there()


def test_five_hundred_kills_lose_nothing_and_count_nothing_twice(tmp_path):
    records, sha256 = Records(f"kills-{SEED}", tmp_path / "records"), undisturbed(SPEC)
    fleet: Fleet | None = None
    runs = 0
    try:
        while sum(len(record["kills"]) for record in records.all()) < KILLS:
            if fleet is None or runs % RUNS_OF_A_FLEET == 0:
                if fleet is not None:
                    fleet.stop()
                fleet = Fleet(tmp_path / f"fleet-{len(records.all())}", AGENTS)
                fleet.start()
                fleet.until_there()
                length_s = _undisturbed_s(fleet, sha256)
            number = len(records.all())
            with fleet.store() as store:
                storm = Storm(fleet, store, random.Random(SEED * 100_000 + number), length_s)
                began = time.monotonic()
                run = storm.run(A_RUN)
                fleet.until("nothing is left", lambda f=fleet, s=store: not f.leftovers(s), tend=True)
                took_s = round(time.monotonic() - began, 1)
                faults = fleet.faults(store, run, sha256)
            records.add({"run": number, "kills": storm.done, "faults": faults, "seconds": took_s})
            runs = 0 if faults else runs + 1
    finally:
        if fleet is not None:
            fleet.stop()
    bad = [record for record in records.all() if record["faults"]]
    assert not bad, f"{len(bad)} of {len(records.all())} runs: {bad[:3]}"
    hit = Counter(kill.split(",")[0] for record in records.all() for kill in record["kills"])
    if KILLS >= 100:
        assert {"coordinator", "agent", "worker", "engine", "broker", "all"} <= set(hit), hit
        assert any("while preparing" in kill for kill in hit), hit


def _undisturbed_s(fleet: Fleet, sha256: str) -> float:
    """How long the run takes here when nothing is killed."""
    with fleet.store() as store:
        began = time.monotonic()
        run = store.runs.submit(SPEC)
        fleet.until_ended(store, run)
        length_s = time.monotonic() - began
        faults = fleet.faults(store, run, sha256)
    assert not faults, faults
    return length_s
