"""What secure aggregation costs beside plain: bytes and seconds of one step's results, some devices lost.

The method of a live run and its blobs, in all phases, without a network between. Devices' results are drawn, not
trained: ResNet18 at density 0.01 as the task, each device's arrays moved by noise. Devices are lost at the worst
moment, after they have dealt their shares: their masks are in everybody's vectors. Seconds are of this machine's
processor, not of its clock: the devices' for decoding, masking and encoding, and the coordinator's for its part.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyfleet.bench.wire import IMAGE, payload_of
from tinyfleet.coordinator.step.aggregate import StepFold, StoredResult
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.methods.fedavg import Static, StaticSettings
from tinyfleet.fedcore.methods.method import Control, Method
from tinyfleet.fedcore.methods.registry import problem_of
from tinyfleet.fedcore.methods.summing.phases import taken_apart
from tinyfleet.fedcore.methods.summing.secure_method import SecureMethod
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import FleetSettings, ModelSettings, RunSpec, SecureAggregationSettings
from tinyfleet.fedcore.secure_sum.neighbours import degree_for, threshold_of
from tinyfleet.fedcore.secure_sum.stream import add_stream
from tinyfleet.simulation import SimulatedMemory

MODEL, DENSITY = "resnet18", 0.01
SAMPLES = 500  # of a device: CIFAR-10's 50,000 over a hundred
DEVICES, LOST = (20, 100), (0.0, 0.1, 0.3)
REPEATS = 5
STREAM_WORDS = 1 << 21


@dataclass(frozen=True, slots=True)
class SecureAggregationRow:
    """One fleet with one share of it lost. Seconds are lists over the repeats, plain and secure pair by pair, of
    the processor: the machine has others to serve.

    Bytes are a device's, of all tasks down and of all results up: means over the devices that are there.
    """

    devices: int
    lost: int
    neighbours: int
    threshold: int
    plain_up: int
    plain_down: int
    secure_up: int
    secure_down: int
    plain_device_s: list[float]  # a device's mean
    secure_device_s: list[float]
    plain_coordinator_s: list[float]  # for all devices
    secure_coordinator_s: list[float]
    equal: bool  # the two states after the step are the same, bit for bit
    stream_mb_s: float  # masks from a seed

    @property
    def bytes_ratio(self) -> float:
        """All that is not the task itself, times the plain results."""
        return (self.secure_up + self.secure_down - self.plain_down) / self.plain_up

    @property
    def seconds_ratio(self) -> float:
        """Of everybody's seconds together, all devices' and the coordinator's: the median over the repeats."""
        return self._ratio(self.secure_device_s, self.plain_device_s, self.devices - self.lost)

    @property
    def device_ratio(self) -> float:
        """Of a device's seconds alone."""
        pairs = zip(self.secure_device_s, self.plain_device_s, strict=True)
        return statistics.median(secure / plain for secure, plain in pairs)

    def _ratio(self, secure: list[float], plain: list[float], there: int) -> float:
        rows = zip(secure, self.secure_coordinator_s, plain, self.plain_coordinator_s, strict=True)
        return statistics.median((s * there + sc) / (p * there + pc) for s, sc, p, pc in rows)


class Stopwatch:
    """Adds up seconds of this process's processor by part: each part ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._since = "", time.process_time()

    def __call__(self, part: str) -> str:
        """Begin ``part``; the one before it is handed back, for whoever interrupts it."""
        now, before = time.process_time(), self._part
        if before:
            self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before


class DrawnResults(Static):
    """A method whose devices train nothing: their results are drawn anew each time, off the clock."""

    def __init__(self, watch: Stopwatch) -> None:
        spec = RunSpec(model=ModelSettings(MODEL, IMAGE, 10))
        super().__init__(StaticSettings(density=DENSITY), problem_of(spec))
        self._watch = watch

    def run(self, task: Payload, engine: Any, data: DeviceData, control: Control) -> Payload:
        before = self._watch("draw")
        result = drawn(task, int(data.name.removeprefix("device-")))
        self._watch(before)
        return result


def drawn(task: Payload, device: int) -> Payload:
    """The task's arrays, each moved by a tenth of its own deviation."""
    rng = np.random.default_rng(device)
    params = {}
    for name, values in task.params.items():
        moved, active = values.copy(), task.mask.get(name)
        where: Any = ... if active is None else active
        own = values[where]
        moved[where] += rng.standard_normal(own.shape, np.float32) * np.float32(0.1 * own.std() + 1e-3)
        params[name] = np.abs(moved) if name.endswith("running_var") else moved
    meta: Any = {"step": task.meta["step"], "samples": SAMPLES, "loss": float(rng.uniform(0.1, 2.0))}
    return Payload(meta, params, task.mask)


def bench_secure_aggregation(
    devices: Iterable[int] = DEVICES,
    lost: Iterable[float] = LOST,
    repeats: int = REPEATS,
    progress: Callable[[SecureAggregationRow], None] = lambda row: None,
) -> Iterator[SecureAggregationRow]:
    """Every fleet with every share of it lost; plain and secure take turns."""
    shares = tuple(lost)
    for count in devices:
        for share in shares:
            row = _row(count, round(share * count), repeats)
            progress(row)
            yield row


def _row(count: int, lost: int, repeats: int) -> SecureAggregationRow:
    names = [f"device-{number:03d}" for number in range(count)]
    gone = set(np.random.default_rng(lost).choice(names, lost, replace=False).tolist())
    plain, secure = [], []
    for _ in range(repeats):
        plain.append(StepOf(names, gone, secure=False))
        secure.append(StepOf(names, gone, secure=True))
    there, degree = count - lost, degree_for(count, 0.5)
    return SecureAggregationRow(
        devices=count,
        lost=lost,
        neighbours=degree,
        threshold=threshold_of(degree + 1, 0.5),
        plain_up=plain[0].up // there,
        plain_down=plain[0].down // there,
        secure_up=secure[0].up // there,
        secure_down=secure[0].down // there,
        plain_device_s=[one.watch.seconds["device"] / there for one in plain],
        secure_device_s=[one.watch.seconds["device"] / there for one in secure],
        plain_coordinator_s=[one.watch.seconds["coordinator"] for one in plain],
        secure_coordinator_s=[one.watch.seconds["coordinator"] for one in secure],
        equal=len({one.state for one in (*plain, *secure)}) == 1,
        stream_mb_s=_stream_mb_s(repeats),
    )


class StepOf:
    """One step of the method, in all its phases; ``gone`` are lost in the one that sends results."""

    def __init__(self, names: list[str], gone: set[str], *, secure: bool) -> None:
        self.watch = Stopwatch()
        self.up = self.down = 0
        self._gone = gone
        self._memories = {name: SimulatedMemory() for name in names}
        inner = DrawnResults(self.watch)
        self._wire = RunSpec().wire
        self._method: Method = inner
        state = payload_of(inner.problem.graph, DENSITY)
        if secure:
            wrapped = SecureMethod(inner, SecureAggregationSettings(True))
            self._method = wrapped
            state = wrapped.started(state)
        begun = state.meta["round"]
        while state.meta["round"] == begun:
            state = self._step(state, names)
        self.watch("")
        self.state = encode(taken_apart(state).inner if secure else state, precision="fp32")

    def _step(self, state: Payload, names: list[str]) -> Payload:
        method, watch = self._method, self.watch
        watch("coordinator")
        task = method.configure_round(state)
        replies: list[StoredResult] = []
        fold = StepFold(
            method,
            state,
            lambda digest: task.mask,
            lambda: replies,
            FleetSettings(norm_limit=0.0, influence_limit=0.0),
        )
        step, members = int(state.meta["step"]), method.members(state)  # type: ignore[arg-type]
        shared = encode(task, precision=self._wire.precision, send_mask=False)
        for name in members or names:
            lost = name in self._gone and not str(task.meta["stage"]).endswith((": keys", ": shares"))
            if lost:
                continue
            watch("coordinator")
            raw = method.addressed(state, name)
            blob = encode(replace(task, raw=task.raw | raw), send_mask=False) if raw else shared
            watch("device")
            given = decode(blob, held=lambda digest: task.mask)
            control = Control(memory=self._memories[name])
            result = method.run(given, None, _data_of(name), control)  # type: ignore[arg-type]
            reply = encode_result(result, given, self._wire, method.upload_precision)
            watch("coordinator")
            fold.add(step, name, reply)
            self.up, self.down = self.up + len(reply), self.down + len(blob)
        after = fold.finish()
        watch("")
        return after


def _data_of(name: str) -> DeviceData:
    """So many samples of one pixel: nobody looks at them."""
    part = Dataset(np.zeros((SAMPLES // 2, 1, 1, 1), np.uint8), np.zeros(SAMPLES // 2, np.int64), 10)
    return DeviceData(name, part, part)


def _stream_mb_s(repeats: int) -> float:
    words = np.zeros(STREAM_WORDS, np.uint64)
    times = []
    for _ in range(repeats):
        started = time.process_time()
        add_stream(words, bytes(32))
        times.append(time.process_time() - started)
    return round(words.nbytes / 1e6 / statistics.median(times), 1)
