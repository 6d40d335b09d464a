"""The table of shares: what the latest selections had in mind for each device."""

from __future__ import annotations

from tinyfleet.coordinator.store.database.database import Database
from tinyfleet.coordinator.store.records import Choice
from tinyfleet.coordinator.store.rows import ShareRow

_COLUMNS = (
    "device, run, step, part, chosen, local_steps, whole_local_steps, activation_keep, predicted_s, basis, reason"
)


class Shares:
    """One row a device: a newer selection takes the place of an earlier one."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def latest(self) -> dict[str, ShareRow]:
        """By device; those that no selection has looked at are not there."""
        rows = [dict(row) for row in self._db.read(f"SELECT {_COLUMNS} FROM shares")]  # noqa: S608 - names are ours
        return {row["device"]: ShareRow(**{**row, "chosen": bool(row["chosen"])}) for row in rows}

    def save(self, run: str, step: int, choice: Choice) -> None:
        """What ``step`` has in mind for its candidates; a part of the store's transactions."""
        for share in choice.shares:
            self._db.write(
                f"INSERT OR REPLACE INTO shares ({_COLUMNS})"  # noqa: S608 - names are ours
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                share.device,
                run,
                step,
                share.part,
                share.chosen,
                share.local_steps,
                share.whole_local_steps,
                share.activation_keep,
                share.predicted_s,
                share.basis,
                share.reason,
            )
