"""Boundaries by name: written down in an undisturbed run, and killed at, one in each run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.kills.fleet import Fleet
from tinyfleet.fedcore.run_spec import RunSpec

MOST_OF_A_KIND = 8  # of one function: the ninth row of a step is written as the eighth was


@dataclass(frozen=True, slots=True, order=True)
class Boundary:
    """The ``number``-th time that a process, such as ``agent-0/worker``, comes to ``label``."""

    role: str
    label: str
    number: int
    at_start: bool  # of the process, before there is a run

    def __str__(self) -> str:
        return f"{self.role} before {self.label}, {self.number}"


def orders(directory: Path) -> Path:
    """Where boundaries are written down and orders lie: beside the fleet, for what lies in it is watched."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def written_down(fleet: Fleet, spec: RunSpec) -> list[Boundary]:
    """Every boundary of a fleet's start and of one run, up to ``MOST_OF_A_KIND`` of each kind."""
    assert fleet.orders is not None
    (fleet.orders / "record").touch()
    fleet.start()
    fleet.until_there()
    started = _counts(fleet.orders)
    with fleet.store() as store:
        run = store.runs.submit(spec)
        fleet.until_ended(store, run)
        fleet.until("nothing is left", lambda: not fleet.leftovers(store))
    (fleet.orders / "record").unlink()
    ended, found = _counts(fleet.orders), []
    for (role, label), times in sorted(ended.items()):
        before = started[role, label]
        found += [Boundary(role, label, n, True) for n in range(1, min(before, MOST_OF_A_KIND) + 1)]
        found += [Boundary(role, label, n, False) for n in range(1, min(times - before, MOST_OF_A_KIND) + 1)]
    return found


def run_to(boundary: Boundary, fleet: Fleet, spec: RunSpec, sha256: str) -> tuple[bool, list[str]]:
    """One run, killed at ``boundary``: whether it came there, and all that is wrong afterwards."""
    order = _give(boundary, fleet)
    if boundary.at_start:
        fleet.start()
        fleet.until_there()
    with fleet.store() as store:
        run = store.runs.submit(spec)
        fleet.until_ended(store, run)
        fleet.until("nothing is left", lambda: not fleet.leftovers(store), tend=True)
        came = not order.exists()
        order.unlink(missing_ok=True)
        fleet.tend()
        if not came:
            fleet.forgive(_daemon(boundary))
        return came, fleet.faults(store, run, sha256)


def _give(boundary: Boundary, fleet: Fleet) -> Path:
    """The order, whole from the moment that it is there."""
    assert fleet.orders is not None
    order = fleet.orders / f"order-{boundary.role.replace('/', '+')}"
    draft = order.with_name(f"draft-{order.name}")
    draft.write_text(json.dumps({"label": boundary.label, "number": boundary.number}), encoding="utf-8")
    if boundary.role == _daemon(boundary):
        fleet.expect(boundary.role)
    draft.rename(order)
    return order


def _daemon(boundary: Boundary) -> str:
    return boundary.role.partition("/")[0]


def _counts(directory: Path) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for path in directory.glob("recorded-*"):
        role = path.name.removeprefix("recorded-").replace("+", "/")
        found.update((role, label) for label in path.read_text(encoding="utf-8").splitlines())
    return found
