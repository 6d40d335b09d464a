"""Every point at which a process leaves something behind: on disk, in a database, on the wire. Tests alone load it.

Python runs this file at the start of any process that has its folder on ``PYTHONPATH``; the product knows nothing
of it. A boundary is the moment before a file is opened to be written, synced, renamed or removed below
``KILLS_ROOT``, before a statement that changes the database, and before a message is handed to the broker. Where a
file ``order-ROLE`` in ``KILLS_ORDERS`` names this process and a boundary, the process is killed there; where there
is a file ``record``, boundaries are written down; where there is one ``clock-NAME``, the time of day is another.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import signal
import sqlite3
import sys
import threading
import time

_CHILDREN = {
    "tinyfleet.edge_agent.worker.main": "worker",
    "tinyfleet.coordinator.run.engine_child": "engine",
    "tinyfleet.edge_agent.identity": "identity",
}
# What carries writes out for others is not what a boundary is called after.
_CARRIERS = (
    "tinyfleet.fedcore.files",
    "tinyfleet.fedcore.child",
    "tinyfleet.coordinator.store.database.database",
    "tinyfleet.fedcore.protocol",
    "tinyfleet.coordinator.wire.outgoing",
    "tinyfleet.edge_agent.link",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "shutil.rmtree": "remove tree",
}
_LEFT_OUT = ("coordinator.db", ".log", "/lock", "coordinator.lock")


class Boundaries:
    """Counts the boundaries of this process since its order came, and dies at the one that it names."""

    def __init__(self, root: str, orders: str, role: str) -> None:
        self._root, self._role = root, role.replace("/", "+")
        self._order, self._record = f"{orders}/order-{self._role}", f"{orders}/record"
        self._log = f"{orders}/recorded-{self._role}"
        self._busy = threading.local()
        self._known: tuple[int, int] | None = None
        self._wanted: tuple[str, int] | None = None
        self._seen = 0

    def reach(self, kind: str) -> None:
        """A boundary: the last moment before ``kind`` happens."""
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            self._look(f"{kind} {_site()}")
        finally:
            self._busy.now = False

    def is_ours(self, path: object) -> bool:
        """Whether a file is part of what the fleet keeps."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        name = os.fsdecode(path)
        return name.startswith(self._root) and not any(part in name for part in _LEFT_OUT)

    def _look(self, label: str) -> None:
        if os.path.exists(self._record):
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(descriptor, f"{label}\n".encode())
            os.close(descriptor)
        try:
            found = os.stat(self._order)
        except OSError:
            self._known = self._wanted = None
            return
        if self._known != (found.st_ino, found.st_mtime_ns):
            self._known, self._seen = (found.st_ino, found.st_mtime_ns), 0
            with open(self._order, "rb") as file:
                wanted = json.loads(file.read())
            self._wanted = wanted["label"], wanted["number"]
        if self._wanted is not None and label == self._wanted[0]:
            self._seen += 1
            if self._seen == self._wanted[1]:
                os.rename(self._order, f"{self._order}.done")
                os.kill(os.getpid(), signal.SIGKILL)


def _site() -> str:
    """The function of the product on whose behalf it happens."""
    frame, last = sys._getframe(2), ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "__main__":
            module = getattr(frame.f_globals.get("__spec__"), "name", None) or module
        if module.startswith("tinyfleet."):
            last = f"{module.removeprefix('tinyfleet.')}:{frame.f_code.co_qualname}"
            if not module.startswith(_CARRIERS):
                return last
        frame = frame.f_back
    return last or "elsewhere"


def _watch_files(boundaries: Boundaries) -> None:
    def heard(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING and boundaries.is_ours(path):
                boundaries.reach("open")
        elif event in _EVENTS and boundaries.is_ours(arguments[0]):
            boundaries.reach(_EVENTS[event])

    sync = os.fsync

    def fsync(descriptor: int) -> None:
        boundaries.reach("fsync")
        sync(descriptor)

    os.fsync = fsync
    sys.addaudithook(heard)


def _watch_database(boundaries: Boundaries) -> None:
    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            words = sql.split(None, 3)
            if words[0] not in ("SELECT", "PRAGMA"):
                boundaries.reach("database " + words[0])
            return super().execute(sql, *values)

    connect = sqlite3.connect

    def watched(*arguments: object, **options: object) -> sqlite3.Connection:
        return connect(*arguments, **{"factory": Watched, **options})

    sqlite3.connect = watched


def _watch_wire(boundaries: Boundaries) -> None:
    class Finder(importlib.abc.MetaPathFinder):
        looking = False

        def find_spec(self, name, path, target=None):
            if name != "paho.mqtt.client" or Finder.looking:
                return None
            Finder.looking = True
            try:
                found = importlib.util.find_spec(name)
            finally:
                Finder.looking = False
            load = found.loader.exec_module

            def execute(module) -> None:
                load(module)
                publish = module.Client.publish

                def watched(client, topic, *rest, **named):
                    boundaries.reach(f"publish {topic.rsplit('/', 1)[-1]}")
                    return publish(client, topic, *rest, **named)

                module.Client.publish = watched

            found.loader.exec_module = execute
            return found

    sys.meta_path.insert(0, Finder())


def _shift_clock(path: str) -> None:
    """The time of day is off by the seconds in a file, from one moment to the next."""
    now = time.time

    def shifted() -> float:
        try:
            with open(path, "rb") as file:
                return now() + float(file.read())
        except OSError:
            return now()

    time.time = shifted


def _role() -> str:
    arguments = sys.orig_argv
    module = arguments[arguments.index("-m") + 1] if "-m" in arguments else ""
    child = _CHILDREN.get(module, "")
    return os.environ["KILLS_NAME"] + (f"/{child}" if child else "")


if "KILLS_NAME" in os.environ:
    _boundaries = Boundaries(os.environ["KILLS_ROOT"], os.environ["KILLS_ORDERS"], _role())
    _watch_files(_boundaries)
    _watch_database(_boundaries)
    _watch_wire(_boundaries)
    _shift_clock(f"{os.environ['KILLS_ORDERS']}/clock-{os.environ['KILLS_NAME']}")
