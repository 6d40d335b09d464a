"""How long the fleet's certificates last, where its authority is here."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tinyfleet.doctor.answer import Answer, Outcome, Surroundings

_SHOWN = 5  # names in one line


def certificates(surroundings: Surroundings) -> Answer:
    """Those of the authority beside the state, or where TINYFLEET_CA says."""
    from tinyfleet.broker_place import behind, remembered
    from tinyfleet.coordinator.fleet.authority import Authority, CertificateState
    from tinyfleet.fedcore.errors import TinyfleetError
    from tinyfleet.fedcore.tls.validity import Validity

    directory = Path(os.environ.get("TINYFLEET_CA") or surroundings.state / "authority")
    if not directory.exists():
        return Answer(
            Outcome.OK, f"no authority in {directory}; beyond one machine a fleet has one: tinyfleet ca init"
        )
    try:
        authority = Authority(directory)
        rows, stale, place = authority.certificates(), behind(authority), remembered(authority)
    except TinyfleetError as error:
        return Answer(Outcome.WARNING, str(error), "a closed directory that is whole: docs/security-ca.md")
    now = time.time()
    active = [row for row in rows if row.state is CertificateState.ACTIVE]
    late = [row for row in active if Validity(row.not_before, row.not_after).due(now, row.issued_at)]
    latest = {row.name: row for row in reversed(rows)}  # the newest of a name comes last
    gone = sorted(name for name, row in latest.items() if row.state is CertificateState.EXPIRED)
    found = f"{len(active)} in use"
    if active:
        first = min(active, key=lambda row: row.not_after)
        found += f", the first to end is that of {first.name}, in {(first.not_after - now) / 86400:.0f} days"
    remedies = []
    if late:
        found += f"; {len(late)} should have been renewed by now: {_names([row.name for row in late])}"
        remedies.append("edge-agent status and the logs say why; by hand: tinyfleet ca renew NAME")
    if gone:
        found += f"; expired: {_names(gone)}"
        remedies.append("tinyfleet ca issue NAME, and carry the files to it")
    if stale and place is not None:
        found += (
            f"; the broker's files in {place.directory} are older than the authority's: who is revoked may be in"
        )
        remedies.append(f"tinyfleet broker refresh --ca {directory} --out {place.directory} --restart COMMAND")
    return Answer(Outcome.WARNING if remedies else Outcome.OK, found, "\n".join(remedies))


def _names(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
