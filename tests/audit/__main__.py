"""``make audit``: python -m tests.audit SITE_PACKAGES [OUT.json]. Ends with 1 where anything was found."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.audit import secrets, vulnerabilities, wheels
from tests.audit.findings import Outcome

ROOT = Path(__file__).parents[2]
MOST_SHOWN = 5  # where nothing was found: findings are shown whole


def main(site_packages: Path, out: Path | None) -> int:
    """Every part in turn, said as it ends."""
    parts = []
    for part in (
        lambda: wheels.of_index(ROOT / "constraints/board.txt"),
        lambda: vulnerabilities.of_requirements(ROOT / "constraints/board.txt"),
        lambda: vulnerabilities.of_environment(site_packages),
        lambda: secrets.of_tree(ROOT),
    ):
        parts.append(part())
        print(f"{parts[-1].outcome:9}  {parts[-1].name}: {parts[-1].summary}")  # noqa: T201
        shown = None if parts[-1].outcome is Outcome.FOUND else MOST_SHOWN
        for line in parts[-1].lines[:shown]:
            print(f"           {line}")  # noqa: T201
    if out is not None:
        out.write_text(json.dumps([asdict(part) for part in parts], indent=2) + "\n", encoding="utf-8")
    return int(any(part.outcome is Outcome.FOUND for part in parts))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
