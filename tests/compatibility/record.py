"""Writes what is tested for ever after: ``python -m tests.compatibility.record``, once for each new version.

Of the protocol every message with every field, of the codec and the engine a small file, of the store a dump
with what it reads back as, of the command line the keys of its JSON. A recording is never changed once its version
is released: what it holds must be read by all that come after.
"""

from __future__ import annotations

import base64
import dataclasses
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tinyfleet.coordinator.states import RunEvent
from tinyfleet.coordinator.store.database.schema import SCHEMA_VERSION
from tinyfleet.coordinator.store.records import Choice, Share, StepSummary
from tinyfleet.coordinator.store.rows import DeviceRow, RunRow, ShareRow, StepRow, TaskRow
from tinyfleet.coordinator.store.store import Store
from tinyfleet.edge_agent.task.outbox import Outbox
from tinyfleet.fedcore.foreign.data_description import DataDescription, SkippedFiles
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol import messages as wire
from tinyfleet.fedcore.protocol.chunks import manifest_of
from tinyfleet.fedcore.protocol.version import PROTOCOL
from tinyfleet.fedcore.run_spec import RunSpec

HERE = Path(__file__).parent
MANIFEST = wire.Manifest("ab" * 32, 1000, 96)
HEALTH = {"free_memory_bytes": 1e8, "rss_bytes": 3e7}
TRAFFIC = wire.Traffic(10, 20)
DATA = DataDescription(
    *((1, 28), "uint8", "CL", ("off", "on"), (0.0, 255.0), (3.0, 200.0), "g", 50.0, ("x",), {"window": 28}),
    *((30, 20), 4, {"unread suffix": SkippedFiles(2, "notes.txt")}),
)

UP = (
    wire.Hello(
        *("b1", "key", "s1", "0.1.0", ["native"], {"name": "pi-4b"}, 500, 3000, ("run-1", 2)),
        *(2, "0" * 32, "1" * 32, ["run-0", "run-1"], DATA),
    ),
    wire.Heartbeat("s1", ("run-1", 2), HEALTH, TRAFFIC),
    wire.Goodbye("s1", "stopped"),
    wire.TaskStatus(
        *("run-1", 2, wire.TaskState.RUNNING, "hot", 3, 9, 0.5, 4, "micro-batch 4", 1.5, TRAFFIC, 77),
    ),
    wire.ResultOffer("run-1", 2, MANIFEST, 1.5, 2.5, 77, "native", "ef" * 32, 4, "micro-batch 4"),
    wire.ChunkRequest("cd" * 32, 3, 8),
    wire.RenewalRequest("-----BEGIN CERTIFICATE REQUEST-----", b"proof"),
    wire.CertificateInUse("12ab"),
)
DOWN = (
    wire.Challenge("0" * 32, "1" * 32, "key"),
    wire.HelloWanted(),
    wire.Welcome(wire.Enrolment.ACCEPTED, 7.0, "hello", 2),
    wire.TaskOffer("run-1", 2, "train", 60.0, MANIFEST, {"name": "r"}, "ef" * 32, 12, 0.3),
    wire.TaskCancel("run-1", 2, "over"),
    wire.LeaseExtended("run-1", 2, 45.0),
    wire.ResultVerdict("run-1", 2, wire.Verdict.REFUSED, "too late"),
    wire.LeftOut("run-1", "classes: here teal, wanted red"),
    wire.RunEnded("run-1"),
    wire.ChunkRequest("cd" * 32, 3, 8),
    wire.RenewalGrant("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----"),
    wire.RenewalWanted(),
    wire.RenewalRefused("no authority here"),
)
API = {"run": RunRow, "step": StepRow, "task": TaskRow, "device": DeviceRow, "share": ShareRow}


def payload() -> Payload:
    """A small state with a mask, of all that the codec writes."""
    mask = np.zeros((4, 3, 3, 3), bool)
    mask.flat[::7] = True
    weight = np.where(mask, np.arange(108, dtype=np.float32).reshape(mask.shape) / 8, np.float32(0))
    bias = np.linspace(-1, 1, 4, dtype=np.float32)
    return Payload({"step": 3, "stage": "train", "round": 2}, {"w": weight, "b": bias}, {"w": mask})


def write(name: str, document: Any) -> None:
    """One recording as indented JSON."""
    (HERE / name).write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def fill(store: Store) -> None:
    """A run that has finished a step and is at its second."""
    for device in ("board-1", "board-2"):
        store.devices.save_hello(device, msgspec.structs.replace(UP[0], name=device), wire.Enrolment.ACCEPTED)
    run = store.runs.submit(RunSpec(name="recorded", seed=3))
    store.runs.start(run)
    base = store.blobs.put(b"first")
    store.runs.prepared(run, base)
    shares = tuple(
        Share(device, chosen=True, local_steps=5, whole_local_steps=9) for device in ("board-1", "board-2")
    )
    store.open_step(run, 0, "train", 0, base, Choice(shares))
    after = store.blobs.put(b"second")
    lost = [{"device": "board-2", "reason": "deadline"}]
    store.finish_step(run, 0, after, 1, StepSummary(2.0, 0.5, 1, lost, 0.7, 0.8, 0.1))
    store.open_step(run, 1, "train", 1, after, Choice(shares))
    store.end_run(store.runs.submit(RunSpec(name="stopped")), RunEvent.STOP, "by the operator")


def read(store: Store) -> dict[str, list[dict[str, Any]]]:
    """All that the store hands out."""
    runs = store.runs.all()
    steps = [step for run in runs for step in store.steps.of(run.run)]
    tasks = [task for run in runs for task in store.tasks.of(run.run)]
    rows = {
        "runs": runs,
        "steps": steps,
        "tasks": tasks,
        "devices": store.devices.all(),
        "shares": list(store.shares.latest().values()),
    }
    return {name: [dataclasses.asdict(row) for row in found] for name, found in rows.items()}


def outbox() -> dict[str, Any]:
    """The two files of one waiting result."""
    content = b"a result"
    with tempfile.TemporaryDirectory() as folder:
        waiting, blob = Path(folder) / "outbox", Path(folder) / "result.blob"
        blob.write_bytes(content)
        offer = msgspec.structs.replace(UP[4], manifest=manifest_of(blob, 96))
        Outbox(waiting, max_bytes=10**6, max_age_s=1e12, wall_clock=lambda: 2e9).add(offer, blob)
        description = next(waiting.glob("*.json"))
        document = msgspec.json.decode(description.read_bytes())
        return {"name": description.name, "description": document, "content": base64.b64encode(content).decode()}


def main() -> None:
    write(
        f"messages-{PROTOCOL}.json",
        {"up": [msgspec.to_builtins(m) for m in UP], "down": [msgspec.to_builtins(m) for m in DOWN]},
    )
    blobs = {
        precision: base64.b64encode(codec.encode(payload(), precision=precision)).decode()  # type: ignore[arg-type]
        for precision in ("fp32", "fp16", "int8")
    }
    write("blobs-1.json", blobs)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), clock=lambda: 1000.0)
        fill(store)
        write(f"store-{SCHEMA_VERSION}.json", read(store))
        store.close()
        connection = sqlite3.connect(Path(folder) / "coordinator.db")
        dump = "\n".join(line for line in connection.iterdump() if "sqlite_sequence" not in line)
        (HERE / f"store-{SCHEMA_VERSION}.sql").write_text(f"{dump}\nPRAGMA user_version = {SCHEMA_VERSION};\n")
    write("outbox-1.json", outbox())
    write("api-1.json", {name: [field.name for field in dataclasses.fields(row)] for name, row in API.items()})


if __name__ == "__main__":
    main()
