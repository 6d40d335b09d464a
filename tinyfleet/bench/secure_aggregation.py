"""What secure aggregation costs beside plain: bytes and seconds of one step's results, some devices lost.

Devices' results are drawn, not trained: ResNet18 at density 0.01 as the task, each device's arrays moved by noise.
Devices are lost at the worst moment, after they have dealt their shares: their masks are in everybody's vectors.
Seconds are of this machine's processor, of the devices' halves and of the coordinator's; nothing travels.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tinyfleet.bench.wire import IMAGE, payload_of
from tinyfleet.coordinator.step.aggregate import StepFold
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.methods.parts.checks import checked_samples
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.methods.summing.summands import fill, layout_of, terms_of
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import FleetSettings, ModelSettings, RunSpec
from tinyfleet.fedcore.secure_sum.exchange import Exchange
from tinyfleet.fedcore.secure_sum.in_process import COORDINATOR_PARTS, DEVICE_PARTS, Losses, exchange_sums
from tinyfleet.fedcore.secure_sum.neighbours import degree_for, threshold_of
from tinyfleet.fedcore.secure_sum.stream import add_stream

MODEL, DENSITY = "resnet18", 0.01
SAMPLES = 500  # of a device: CIFAR-10's 50,000 over a hundred
DEVICES, LOST = (20, 100), (0.0, 0.1, 0.3)
REPEATS = 5
STREAM_WORDS = 1 << 21


@dataclass(frozen=True, slots=True)
class SecureAggregationRow:
    """One fleet with one share of it lost. Seconds and ratios are lists over the repeats, pair by pair.

    Bytes are a device's, of a survivor: results in plain; vector, and all messages up and down, if secure.
    """

    devices: int
    lost: int
    neighbours: int
    threshold: int
    plain_bytes: int
    vector_bytes: int
    message_bytes: int
    plain_device_s: list[float]  # a device's mean
    secure_device_s: list[float]
    plain_coordinator_s: list[float]  # for all devices
    secure_coordinator_s: list[float]
    equal: bool  # the two states after the step are the same, bit for bit
    stream_mb_s: float  # masks from a seed

    @property
    def bytes_ratio(self) -> float:
        return (self.vector_bytes + self.message_bytes) / self.plain_bytes

    @property
    def seconds_ratio(self) -> float:
        """Of everybody's seconds together, all devices' and the coordinator's: the median over the repeats."""
        survivors = self.devices - self.lost
        return statistics.median(
            (secure_device * self.devices + secure) / (plain_device * survivors + plain)
            for secure_device, secure, plain_device, plain in zip(
                self.secure_device_s,
                self.secure_coordinator_s,
                self.plain_device_s,
                self.plain_coordinator_s,
                strict=True,
            )
        )


class Stopwatch:
    """Adds up seconds by part: each part ends where the next begins."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._part, self._since = "", 0.0

    def __call__(self, part: str) -> None:
        now = time.perf_counter()
        if self._part:
            self.seconds[self._part] += now - self._since
        self._part, self._since = part, now


class DrawnResults:
    """One step's task and what devices would answer: made anew each time, since a hundred do not fit in memory."""

    def __init__(self, devices: int) -> None:
        spec = RunSpec(method={"name": "static", "density": DENSITY}, model=ModelSettings(MODEL, IMAGE, 10))
        self.method: Method = create(spec.method, problem_of(spec))
        self.state = payload_of(self.method.problem.graph, DENSITY)
        self.task = self.method.configure_round(self.state)
        self.wire = spec.wire
        self.names = [f"device-{number:03d}" for number in range(devices)]

    def result(self, name: str) -> Payload:
        """The arrays of ``name``: the task's, moved by a tenth of their own deviation, as fp16 finds them."""
        rng = np.random.default_rng(int(name.removeprefix("device-")))
        params = {}
        for array, values in self.task.params.items():
            moved = values.copy()
            where = self.task.mask.get(array, np.ones(values.shape, np.bool_))
            noise = rng.standard_normal(int(where.sum()), np.float32) * np.float32(0.1 * values[where].std() + 1e-3)
            moved[where] += noise
            params[array] = np.abs(moved) if array.endswith("running_var") else moved
        meta = {"step": self.task.meta["step"], "samples": SAMPLES, "loss": float(rng.uniform(0.1, 2.0))}
        return Payload(meta, params, self.task.mask)


def bench_secure_aggregation(
    devices: Iterable[int] = DEVICES,
    lost: Iterable[float] = LOST,
    repeats: int = REPEATS,
    progress: Callable[[SecureAggregationRow], None] = lambda row: None,
) -> Iterator[SecureAggregationRow]:
    """Every fleet with every share of it lost; plain and secure take turns."""
    shares = tuple(lost)
    for count in devices:
        drawn = DrawnResults(count)
        for share in shares:
            row = _row(drawn, round(share * count), repeats)
            progress(row)
            yield row


def _row(drawn: DrawnResults, lost: int, repeats: int) -> SecureAggregationRow:
    names = drawn.names
    rng = np.random.default_rng(lost)
    gone = sorted(rng.choice(names, lost, replace=False).tolist())
    survivors = [name for name in names if name not in gone]
    plain_device, plain_coordinator, secure_device, secure_coordinator = [], [], [], []
    equal = True
    for _ in range(repeats):
        expected, plain, plain_bytes = _plain(drawn, survivors)
        plain_device.append(plain.seconds["encode"] / len(survivors))
        plain_coordinator.append(plain.seconds["add"] + plain.seconds["finish"])
        found, secure, vectors, messages = _secure(drawn, gone)
        secure_device.append(sum(secure.seconds[part] for part in ("terms", *DEVICE_PARTS)) / len(names))
        secure_coordinator.append(sum(secure.seconds[part] for part in (*COORDINATOR_PARTS, "finish")))
        equal = equal and encode(found, precision="fp32") == encode(expected, precision="fp32")
    degree = degree_for(len(names), 0.5)
    return SecureAggregationRow(
        devices=len(names),
        lost=lost,
        neighbours=degree,
        threshold=threshold_of(degree + 1, 0.5),
        plain_bytes=plain_bytes // len(survivors),
        vector_bytes=vectors // len(survivors),
        message_bytes=messages // len(survivors),
        plain_device_s=plain_device,
        secure_device_s=secure_device,
        plain_coordinator_s=plain_coordinator,
        secure_coordinator_s=secure_coordinator,
        equal=equal,
        stream_mb_s=_stream_mb_s(repeats),
    )


def _plain(drawn: DrawnResults, survivors: list[str]) -> tuple[Payload, Stopwatch, int]:
    watch, size = Stopwatch(), 0
    watch("begin")
    fold = StepFold(
        drawn.method, drawn.state, lambda digest: drawn.task.mask, lambda: (), FleetSettings(norm_limit=0.0)
    )
    step = int(drawn.task.meta["step"])  # type: ignore[arg-type]
    for name in survivors:
        watch("draw")
        result = drawn.result(name)
        watch("encode")
        blob = encode_result(result, drawn.task, drawn.wire, drawn.method.upload_precision)
        watch("add")
        fold.add(step, name, blob)
        size += len(blob)
    watch("finish")
    state = fold.finish()
    watch("")
    return state, watch, size


def _secure(drawn: DrawnResults, gone: list[str]) -> tuple[Payload, Stopwatch, int, int]:
    watch, stage, terms = Stopwatch(), drawn.method.sum_stage(drawn.task), {}
    samples = SAMPLES * len(drawn.names)
    for name in drawn.names:
        watch("draw")
        result = drawn.result(name)
        watch("terms")
        terms[name] = terms_of(stage, result, checked_samples(result), samples)
    exchange = Exchange("bench", 7)
    layout = layout_of(stage, samples)
    exchanged = exchange_sums(
        exchange, layout, terms, samples, os.urandom, losses=Losses(masking=gone), watch=watch
    )
    watch("finish")
    fold = drawn.method.begin_fold(drawn.state)
    fill(stage, fold, exchanged.sums, len(exchanged.survivors))
    state = drawn.method.finish_round(drawn.state, fold)
    watch("")
    return state, watch, exchanged.vectors, exchanged.control_up + exchanged.control_down


def _stream_mb_s(repeats: int) -> float:
    words = np.zeros(STREAM_WORDS, np.uint64)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        add_stream(words, bytes(32))
        times.append(time.perf_counter() - started)
    return round(words.nbytes / 1e6 / statistics.median(times), 1)
