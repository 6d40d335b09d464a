"""What the records of long tests come to: ``python -m tests.kills.summary RECORDS TARGET COMMIT``.

``TARGET`` is docs/benchmarks/kills.json. ``RECORDS`` is what ``TINYFLEET_KILL_RECORDS`` named;
``COMMIT`` is what was run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from tests.kills.records import read_records


def random_kills(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of ``test_random_kills``: how often each was hit, and how many runs were not as if nothing had been."""
    runs = list(records)
    killed = Counter(kill.split(",")[0].partition(" while")[0] for run in runs for kill in run["kills"])
    preparing = sum("while preparing" in kill for run in runs for kill in run["kills"])
    faulty = sum(bool(run["faults"]) for run in runs)
    return {"runs": len(runs), "preparing": preparing, "faulty": faulty, "killed": dict(killed.most_common())}


def boundary_kills(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of ``test_boundaries``, each boundary once: those that were come to, by process."""
    found = {(r["role"], r["label"], r["number"], r["at_start"]): r for r in records}.values()
    killed = Counter(record["role"] for record in found if record["came"])
    faulty = sum(bool(record["faults"]) for record in found)
    missed = sum(not record["came"] for record in found)
    return {"tried": len(found), "missed": missed, "faulty": faulty, "killed": dict(killed.most_common())}


def main(directory: str, target: str, commit: str) -> None:
    """Write the sums as indented JSON."""
    folder = Path(directory)
    runs = [record for path in sorted(folder.glob("kills-*.jsonl")) for record in read_records(path)]
    sums = {
        "commit": commit,
        "random": random_kills(runs),
        "boundaries": boundary_kills(read_records(folder / "boundaries.jsonl")),
    }
    Path(target).write_bytes(msgspec.json.format(msgspec.json.encode(sums), indent=2) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
