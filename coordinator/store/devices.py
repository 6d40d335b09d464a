"""The table of devices: who they are, what they may, what they said last."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tinyfleet.coordinator.errors import UnknownDevice
from tinyfleet.coordinator.store.database.database import Database, as_json, from_json
from tinyfleet.coordinator.store.records import Pin, Presence
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.protocol.messages import Enrolment, Hello
from tinyfleet.fedcore.protocol.signed.signatures import fingerprint, key_bytes, shown

_COLUMNS = (
    "device, name, enrolment, online, last_seen, profile, health, samples, engines, memory_limit_bytes, "
    "idle_rss_bytes, peak_rss_bytes, quarantine, public_key, rekey, trouble, data"
)
_JSON: dict[str, Any] = {"profile": dict[str, Any], "health": dict[str, int | float], "engines": list[str]}
# One that was forgotten, and had tasks, stays as their device, without a key: it is a newcomer when it is back.
_KNOWN = "public_key <> ''"


class Devices:
    """All devices that ever said hello. ``clock`` tells seconds since 1970."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._db = database
        self._clock = clock

    # -- anyone -------------------------------------------------------------------------

    def all(self) -> list[DeviceRow]:
        """Every device, by name; one whose row cannot be read is left out until it says hello again."""
        rows = self._db.read(f"SELECT {_COLUMNS} FROM devices WHERE {_KNOWN} ORDER BY device")  # noqa: S608 - names are ours
        return self._db.legible("devices", rows, _row)

    def names(self) -> list[str]:
        """Of every device, those included whose rows cannot be read."""
        return [row["device"] for row in self._db.read(f"SELECT device FROM devices WHERE {_KNOWN}")]  # noqa: S608

    def set_enrolment(self, device: str, enrolment: Enrolment) -> None:
        """Accept or reject a device. Raises ``UnknownDevice``."""
        self._change(device, "enrolment = ?", enrolment)

    def rekey(self, device: str) -> None:
        """Take the next key that is shown under its name, once. Raises ``UnknownDevice``."""
        self._change(device, "rekey = 1")

    def forget_known(self, device: str) -> None:
        """As if it had never said hello; its tasks stay in the history of their runs. Raises ``UnknownDevice``."""
        self._change(
            device,
            "public_key = '', session = '', enrolment = ?, online = 0, profile = '{}', health = '{}', rekey = 0,"
            " quarantine = '', trouble = ''",
            Enrolment.PENDING,
        )
        self._db.write(
            "DELETE FROM devices WHERE device = ?"
            " AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.device = devices.device)"
            " AND NOT EXISTS (SELECT 1 FROM shares WHERE shares.device = devices.device)",
            device,
        )

    def _change(self, device: str, what: str, *values: object) -> None:
        sql = f"UPDATE devices SET {what} WHERE device = ? AND {_KNOWN}"  # noqa: S608 - names are ours
        if not self._db.write(sql, *values, device):
            raise UnknownDevice(f"no device {device!r} has ever said hello; `devices list` names those that have")

    # -- the service --------------------------------------------------------------------

    def samples(self, device: str) -> int:
        """What its latest hello said; 0 where it is not known."""
        rows = self._db.read("SELECT samples FROM devices WHERE device = ?", device)
        return int(rows[0]["samples"]) if rows else 0

    def pins(self) -> list[Pin]:
        """Identity, session and enrolment of every device."""
        rows = self._db.read(
            "SELECT device, public_key, session, enrolment, online, rekey FROM devices"  # noqa: S608 - names are ours
            f" WHERE {_KNOWN} ORDER BY device"
        )
        return self._db.legible(
            "devices",
            rows,
            lambda r: Pin(
                r["device"],
                r["public_key"],
                r["session"],
                Enrolment(r["enrolment"]),
                bool(r["online"]),
                bool(r["rekey"]),
            ),
        )

    def save_hello(self, device: str, hello: Hello, enrolment: Enrolment) -> None:
        """A device's introduction. An enrolment that is already there stays; the key is the one it showed.

        What it said that it cannot do it said of an earlier session, or of the data that it had.
        """
        self._db.write(
            "UPDATE tasks SET unfit = 0 WHERE device = ? AND unfit"
            " AND NOT EXISTS (SELECT 1 FROM devices WHERE device = ? AND session = ? AND data = ?)",
            device,
            device,
            hello.session,
            _as_text(hello.data),
        )
        self._db.write(
            "INSERT INTO devices (device, name, public_key, enrolment, session, online, last_seen, profile,"
            " samples, engines, memory_limit_bytes, data) VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (device) DO UPDATE SET name = excluded.name, rekey = 0,"
            " enrolment = CASE devices.public_key WHEN '' THEN excluded.enrolment ELSE devices.enrolment END,"
            " public_key = excluded.public_key, session = excluded.session, online = 1,"
            " last_seen = excluded.last_seen, profile = excluded.profile, samples = excluded.samples,"
            " engines = excluded.engines, memory_limit_bytes = excluded.memory_limit_bytes, data = excluded.data",
            device,
            hello.name,
            hello.public_key,
            enrolment,
            hello.session,
            self._clock(),
            as_json(hello.profile),
            hello.samples,
            as_json(hello.engines),
            hello.memory_limit_bytes,
            _as_text(hello.data),
        )

    def forget(self, devices: Iterable[str]) -> None:
        """Drop devices that nobody has accepted and that never had a task."""
        with self._db.relaxed():
            for device in devices:
                self._db.write(
                    "DELETE FROM devices WHERE device = ? AND enrolment = ?"
                    " AND NOT EXISTS (SELECT 1 FROM tasks WHERE tasks.device = devices.device)",
                    device,
                    Enrolment.PENDING,
                )

    def set_quarantine(self, device: str, reason: str) -> None:
        """Its messages are dropped unread for now, and why; an empty ``reason``: they are read again."""
        self._db.write("UPDATE devices SET quarantine = ? WHERE device = ?", reason, device)

    def end_quarantines(self) -> None:
        """The service starts anew: everybody is heard."""
        self._db.write("UPDATE devices SET quarantine = '' WHERE quarantine <> ''")

    def set_trouble(self, device: str, what: str) -> None:
        """Who else speaks as this device; empty: nobody that is known of."""
        self._db.write("UPDATE devices SET trouble = ? WHERE device = ?", what, device)

    def end_troubles(self) -> None:
        """The service starts anew: what is still so will be noticed again."""
        self._db.write("UPDATE devices SET trouble = '' WHERE trouble <> ''")

    def introduce(self, hellos: Mapping[str, Hello]) -> None:
        """Hellos of devices that nobody has accepted yet, by device: said again where a power cut undoes this."""
        with self._db.relaxed():
            for device, hello in hellos.items():
                self.save_hello(device, hello, Enrolment.PENDING)

    def note_presence(self, notes: Iterable[Presence]) -> None:
        """Signs of life since the last call."""
        now = self._clock()
        with self._db.relaxed():
            for note in notes:
                self._db.write(
                    "UPDATE devices SET session = ?, online = ?, health = coalesce(?, health),"
                    " last_seen = CASE WHEN ? THEN ? ELSE last_seen END,"
                    " idle_rss_bytes = CASE WHEN ? > 0 THEN ? ELSE idle_rss_bytes END,"
                    " peak_rss_bytes = max(peak_rss_bytes, ?) WHERE device = ?",
                    note.session,
                    note.online,
                    None if note.health is None else as_json(note.health),
                    note.online,
                    now,
                    note.idle_rss_bytes,
                    note.idle_rss_bytes,
                    note.peak_rss_bytes,
                    note.device,
                )


def _as_text(data: DataDescription | None) -> str:
    return "" if data is None else as_json(data)


def _row(row: sqlite3.Row) -> DeviceRow:
    values: dict[str, Any] = dict(row) | {name: from_json(row[name], kind, name) for name, kind in _JSON.items()}
    values["data"] = read_document(row["data"].encode(), DataDescription) if row["data"] else None
    key = key_bytes(row["public_key"])
    return DeviceRow(
        **{**values, "online": bool(row["online"]), "rekey": bool(row["rekey"])},
        fingerprint="" if key is None else shown(fingerprint(key)),
    )
