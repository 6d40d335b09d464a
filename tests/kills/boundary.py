"""Boundaries by name: written down in an undisturbed run, and killed at, one of each process in a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
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


def together(boundaries: Iterable[Boundary]) -> list[list[Boundary]]:
    """What may be killed at in one run: one boundary of each process. Those of a start come last."""
    by_role: dict[tuple[bool, str], list[Boundary]] = {}
    for boundary in boundaries:
        by_role.setdefault((boundary.at_start, boundary.role), []).append(boundary)
    found = []
    for at_start in (False, True):
        columns = [column for (start, _), column in by_role.items() if start is at_start]
        found += [[one for one in row if one is not None] for row in zip_longest(*columns)]
    return found


def run_to(boundaries: list[Boundary], fleet: Fleet, spec: RunSpec, sha256: str) -> tuple[set[Boundary], list[str]]:
    """One run, killed at each of ``boundaries``: those that it came to, and all that is wrong afterwards."""
    orders = {boundary: _give(boundary, fleet) for boundary in boundaries}
    if boundaries[0].at_start:
        fleet.start()
        fleet.until_there()
    with fleet.store() as store:
        run = store.runs.submit(spec)
        fleet.until_ended(store, run)
        fleet.until("nothing is left", lambda: not fleet.leftovers(store), tend=True)
        came = {boundary for boundary, order in orders.items() if not order.exists()}
        for boundary in set(orders) - came:
            orders[boundary].unlink(missing_ok=True)
        fleet.tend()
        for boundary in boundaries:
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
