"""A whole run in one process: the live fleet's methods, codec and device data without its network.

The same ``Method`` object, the same blobs and the same random generators as live: on equal specs and
device names the final model is bit-identical.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tinyfleet.coordinator.privacy.accountant import affordable, calibrated, epsilon
from tinyfleet.coordinator.selection.policy import draw
from tinyfleet.coordinator.step.aggregate import StepFold, StoredResult
from tinyfleet.fedcore.accounting import Cost
from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.cohort.robust import check_aggregate
from tinyfleet.fedcore.datasets.contract import check_data
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.datasets.partition import described, device_data, public_data, test_data, validation_data
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Control, Method, normalization_of
from tinyfleet.fedcore.methods.registry import method_of
from tinyfleet.fedcore.outcome.averaging import averaged
from tinyfleet.fedcore.outcome.choice import Validated, best, with_validation
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.privacy.admissible import admission_of, check_privacy
from tinyfleet.fedcore.privacy.noise import DeviceNoise, StepPrivacy, private_result
from tinyfleet.fedcore.privacy.noise_key import simulated_key
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.sparsity.mask import density, mask_digest
from tinyfleet.fedcore.training.engine import Engine, Evaluation
from tinyfleet.fedcore.training.levers import NO_LEVERS

log = logging.getLogger(__name__)

COORDINATOR = "coordinator"  # whose noise is made of its own key


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished step. Bytes are mean blob sizes per device, what a device holds already left out."""

    step: int
    stage: str
    round: int  # training rounds finished after it
    devices: int
    loss: float | None
    test_loss: float | None
    test_accuracy: float | None
    density: float
    bytes_down: int
    bytes_up: int
    seconds: float
    flops: float = 0.0  # analytic, of the device with the most data
    memory: int = 0  # analytic peak in bytes, likewise
    validation_accuracy: float | None = None  # on data that the run's result is chosen by
    epsilon: float | None = None  # that such a live run would have spent after it; None: it is not private


class SimulatedMemory:
    """What a simulated device remembers: the latest payload."""

    def __init__(self) -> None:
        self._kept: Payload | None = None

    def read(self, step: int) -> Payload | None:
        return self._kept

    def write(self, step: int, payload: Payload) -> None:
        self._kept = payload


class SimulatedDevice:
    """One device: its data, the mask that it holds, and the part of the job that it is given."""

    def __init__(self, data: DeviceData) -> None:
        self.data = data
        self.steps, self.levers = 0, NO_LEVERS  # as in an offer: all steps, exact caches
        self._held: tuple[str, Mask] | None = None
        self._memory = SimulatedMemory()

    @property
    def enrolled(self) -> int:
        """The samples that it says to have."""
        return _samples(self.data)

    def holds(self, digest: str) -> bool:
        """Whether a task may come without this mask."""
        return self._held is not None and self._held[0] == digest

    def run(self, blob: bytes, method: Method, engine: Engine, spec: RunSpec) -> bytes:
        """Decode a task, run it, encode its result."""
        task = decode(blob, held=lambda digest: self._held[1] if self._held and self.holds(digest) else None)
        if task.mask:
            self._held = mask_digest(task.mask), task.mask
        control = Control(self.levers, self.steps, memory=self._memory)
        result = method.run(task, engine, self.data, control)
        noise = DeviceNoise(simulated_key(spec.seed, self.data.name))
        result = private_result(spec.privacy, method, task, result, noise)
        return encode_result(result, task, spec.wire, method.upload_precision)


def device_names(count: int) -> tuple[str, ...]:
    """Names of simulated devices, those of the demo's agents."""
    return tuple(f"agent-{index}" for index in range(count))


class Simulation:
    """Runs a spec step by step. Raises ``DataError`` and ``ConfigError`` as its parts do.

    ``evaluate`` tells after which training rounds (the first is 1) the model is evaluated; nothing else
    depends on it. ``start``: the numbers that ``model.init`` speaks of.
    """

    def __init__(
        self,
        spec: RunSpec,
        engine: Engine,
        names: Sequence[str] | None = None,
        evaluate: Callable[[int], bool] = lambda finished: True,
        start: Params | None = None,
    ) -> None:
        spec = with_validation(calibrated(spec))
        self.spec, self.engine, self._due = spec, engine, evaluate
        self.method = method_of(spec, start)
        check_aggregate(spec.fleet, self.method)
        check_privacy(spec, self.method)
        self._privacy = None
        if spec.privacy.mode != "none":
            self._privacy = StepPrivacy(spec.privacy, simulated_key(spec.seed, COORDINATOR))
        names = names or device_names(spec.data.partition.devices)
        check_data(described(spec.data), spec.model)
        self.devices = [
            SimulatedDevice(device_data(spec.data, index, name, spec.contract)) for index, name in enumerate(names)
        ]
        self._test = test_data(spec.data, spec.contract)
        self._validation = validation_data(spec.data, spec.contract)
        self._best: tuple[Validated, Payload] | None = None
        self._window: dict[int, Payload] = {}  # the states after the last rounds, where they are to be averaged
        self.refusals: Counter[str] = Counter()  # of each device's results
        self.state = self.method.initial_state(engine, public_data(spec.data, spec.contract))

    def cohort(self) -> list[SimulatedDevice]:
        """The devices of the coming step, as the coordinator draws them."""
        by_name = {device.data.name: device for device in self.devices}
        if (members := self.method.members(self.state)) is not None:
            return [by_name[name] for name in members]
        most = self.spec.fleet.max_refusals
        fit = [name for name in by_name if not most or self.refusals[name] < most]
        names = draw(fit, size=self.spec.fleet.cohort, seed=self.spec.seed, step=_step(self.state))
        return [by_name[name] for name in names]

    def step(self) -> StepRecord:
        """Run one step on its cohort and, where that is due, evaluate the new state on held-out test data."""
        started = time.perf_counter()
        state, wire = self.state, self.spec.wire
        task = self.method.configure_round(state)
        digest = mask_digest(task.mask) if task.mask else ""
        blobs = {
            known: encode(task, precision=wire.precision, send_mask=not known, compress=wire.compress)
            for known in (False, True)
        }
        replies: list[StoredResult] = []
        held: Any = lambda asked: task.mask if asked == digest else None  # noqa: E731
        fold = StepFold(self.method, state, held, lambda: replies, admission_of(self.spec), self._privacy)
        down, up, cohort = 0, 0, self.cohort()
        cost = self._cost(task, max((device.data for device in cohort), key=_samples))
        for device in cohort:
            blob = blobs[device.holds(digest)]
            if raw := self.method.addressed(state, device.data.name):
                own = replace(task, raw=task.raw | raw)
                blob = encode(own, precision=wire.precision, send_mask=False, compress=wire.compress)
            reply = device.run(blob, self.method, self.engine, self.spec)
            self._take(fold, replies, (_step(state), device.data.name, reply), device.enrolled)
            down, up = down + len(blob), up + len(reply)
        self.state = fold.finish()
        for (_, name), reason in fold.judgement.refused.items():
            self._refuse(name, reason)
        stage = str(state.meta["stage"])
        finished = int(self.state.meta["round"])  # type: ignore[arg-type]
        trained = stage.startswith("train") and self.method.measurable(str(self.state.meta["stage"]))
        # Of no test data no accuracy can be known, so none is told.
        evaluation = self.evaluate() if trained and len(self._test) and self._due(finished) else None
        validation = self._note_trained(_step(state), finished)
        metrics: Any = self.state.meta.get("metrics", {})
        return StepRecord(
            step=_step(state),
            stage=stage,
            round=finished,
            devices=len(cohort),
            loss=metrics.get("loss"),
            test_loss=evaluation.loss if evaluation else None,
            test_accuracy=evaluation.accuracy if evaluation else None,
            density=density(self.method.deployed(self.state).mask),
            bytes_down=down // len(cohort),
            bytes_up=up // len(cohort),
            seconds=time.perf_counter() - started,
            flops=cost.flops,
            memory=cost.memory,
            validation_accuracy=None if validation is None else validation.accuracy,
            epsilon=None if self._privacy is None else epsilon(self.spec.privacy, _step(state) + 1),
        )

    def _take(self, fold: StepFold, replies: list[StoredResult], reply: StoredResult, samples: int) -> None:
        """Count a result, as the coordinator does."""
        try:
            fold.add(*reply, samples)
            replies.append(reply)
        except ResultError as error:
            self._refuse(reply[1], str(error))

    def _refuse(self, device: str, reason: str) -> None:
        log.warning("result of %s for step %d does not count: %s", device, _step(self.state), reason)
        self.refusals[device] += 1

    def _cost(self, task: Payload, data: DeviceData) -> Cost:
        return self.method.cost(task, _samples(data), len(data.development))

    def _note_trained(self, step: int, finished: int) -> Evaluation | None:
        """What the run's result needs to know of a state after a training round, as the coordinator does."""
        if not finished or not self.method.measurable(str(self.state.meta["stage"])):
            return None
        if self.spec.result == "averaged":
            self._window[finished] = self.state
            for passed in sorted(self._window)[: -self.spec.training.average_rounds]:
                del self._window[passed]
        if not len(self._validation):
            return None
        found = self._measure(self.state, self._validation)
        state = Validated(step, found.accuracy, found.loss)
        if self.spec.result == "best" and (self._best is None or best((self._best[0], state)) is state):
            self._best = state, self.state
        return found

    def result(self) -> Payload:
        """The state that is the run's result by now."""
        if self._window:
            return averaged(self.method.problem.graph, (self._window[number] for number in sorted(self._window)))
        return self.state if self._best is None else self._best[1]

    def evaluate(self) -> Evaluation:
        """The current model on held-out test data."""
        return self._measure(self.state, self._test)

    def _measure(self, state: Payload, data: Dataset) -> Evaluation:
        model = self.method.deployed(state)
        self.engine.load(self.method.problem.graph, model.params, model.mask)
        return self.engine.evaluate(normalization_of(state)(data.x), data.y)

    def test_arrays(self) -> tuple[FloatArray, IntArray]:
        """Normalised held-out inputs and their labels."""
        return normalization_of(self.state)(self._test.x), self._test.y

    @property
    def finished(self) -> bool:
        """After the last round, or where a live run would stop at the end of its privacy budget."""
        if self.method.finished(self.state):
            return True
        releases = _step(self.state) + 1
        return self._privacy is not None and affordable(self.spec.privacy, releases) < releases


def simulate(
    spec: RunSpec,
    engine: Engine,
    *,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    start: Params | None = None,
) -> Payload:
    """Run ``spec`` to its end; returns the state that is its result."""
    simulation = Simulation(spec, engine, start=start)
    while not simulation.finished:
        on_step(simulation.step())
    return simulation.result()


def _samples(data: DeviceData) -> int:
    return len(data.train) + len(data.development)


def _step(state: Payload) -> int:
    return int(state.meta["step"])  # type: ignore[arg-type]
