"""A hundred thousand hostile messages while honest rounds run: how long rounds take, what memory grows."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tinyfleet.bench.fleet.flood import FloodKind, FloodSettings
from tinyfleet.bench.fleet.rig import Rig, job
from tinyfleet.fedcore.errors import TransportError

DEVICES, TRAIN_S = 10, 2.0
CALM_ROUNDS = 4
MESSAGES, SECONDS = 100_000, 15.0
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class FloodRow:
    """One flood. Rounds are medians, in seconds, of those before and of those that it touched; memory in MB."""

    kind: str
    messages: int  # that the broker took
    seconds: float
    calm_round_s: float
    flooded_round_s: float
    longest_round_s: float  # of the flooded
    coordinator_mb: float  # before
    coordinator_grew_mb: float  # at most, while it lasted
    broker_grew_mb: float
    load_average: float | None = None  # of the machine in the minute before the end, the bench's own included

    @property
    def slower(self) -> float:
        """How many times as long a round took."""
        return self.flooded_round_s / self.calm_round_s


def bench_floods(
    engine: str,
    kinds: Sequence[FloodKind] = tuple(FloodKind),
    done: Callable[[FloodKind], bool] = lambda kind: False,
    messages: int = MESSAGES,
    seconds: float = SECONDS,
) -> Iterator[FloodRow]:
    """A fleet a kind. Raises ``TransportError``."""
    for kind in kinds:
        if not done(kind):
            with tempfile.TemporaryDirectory(prefix="tinyfleet-flood-") as folder:
                yield _flooded(Path(folder), engine, kind, messages, seconds)


def _flooded(folder: Path, engine: str, kind: FloodKind, messages: int, seconds: float) -> FloodRow:
    # The operator has accepted the ten, and who floods as one that takes part in no round; nobody else comes in.
    apart = kind is FloodKind.SIGNED
    with Rig(folder / "rig", engine, auto_accepted=DEVICES + apart) as rig:
        rig.add_devices(DEVICES, train_s=TRAIN_S)
        rig.submit(job(1000, DEVICES, deadline_s=PATIENCE_S))
        rig.until(lambda: len(_rounds(rig)) > CALM_ROUNDS, PATIENCE_S, "calm rounds")
        calm = _rounds(rig)[1:]
        before, broker_before = rig.coordinator.now, rig.broker.now
        rig.coordinator.most = rig.broker.most = 0
        settings = FloodSettings(rig.host, rig.port, kind, messages, seconds, "apart" if apart else "virtual-0")
        command = [sys.executable, "-m", "tinyfleet.bench.fleet.flood", msgspec.json.encode(settings).decode()]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as flood:
            assert flood.stdout is not None  # noqa: S101 - a pipe, as asked for
            if not flood.stdout.readline():
                raise TransportError("what should have flooded did not come so far")
            start = len(_rounds(rig))
            rig.until(lambda: flood.poll() is not None, 20 * seconds, "the flood's end")
            during = len(_rounds(rig))
            sent = msgspec.json.decode(flood.stdout.read())
        # The round that was open at its end was flooded too; so was the one that was open when it began.
        rig.until(lambda: len(_rounds(rig)) > during, PATIENCE_S, "the round in which the flood ended")
        flooded = _rounds(rig)[start : during + 1]
        return FloodRow(
            kind=kind.value,
            messages=sent["sent"],
            seconds=sent["seconds"],
            calm_round_s=round(statistics.median(calm), 3),
            flooded_round_s=round(statistics.median(flooded), 3),
            longest_round_s=round(max(flooded), 3),
            coordinator_mb=round(before / 1e6, 1),
            coordinator_grew_mb=round((rig.coordinator.most - before) / 1e6, 1),
            broker_grew_mb=round((rig.broker.most - broker_before) / 1e6, 1),
            load_average=round(os.getloadavg()[0], 1),
        )


def _rounds(rig: Rig) -> list[float]:
    """Seconds of each step that is done, by the coordinator's own record."""
    assert rig.store is not None  # noqa: S101 - made on entry
    (run,) = rig.store.runs.names()
    return [row.duration_s for row in rig.store.steps.of(run) if row.duration_s is not None]
