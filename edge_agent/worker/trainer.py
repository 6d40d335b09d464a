"""Does tasks: a blob in, method and engine on the device's data, a result out.

Imports stand where they are needed: each takes memory, and what a task loads is bounded from its first line on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tinyfleet.edge_agent.config import AgentDataSettings, AgentPrivacySettings
from tinyfleet.edge_agent.worker.commands import (
    Declined,
    EndsEarly,
    Planned,
    StepsDone,
    TaskCommand,
    TaskDone,
    Tightened,
    TrainingBegan,
    Unfit,
    WorkerEvent,
)
from tinyfleet.edge_agent.worker.memory_limit.data_hold import DataHold
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.rss import reset_peak, status_bytes
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec
from tinyfleet.fedcore.settings import convert

if TYPE_CHECKING:
    from tinyfleet.edge_agent.worker.task_control import TaskControl
    from tinyfleet.fedcore.datasets.dataset import DeviceData
    from tinyfleet.fedcore.foreign.data_description import DataDescription
    from tinyfleet.fedcore.methods.method import Method
    from tinyfleet.fedcore.payload import Payload
    from tinyfleet.fedcore.planning.cost_model import CostModel

Emit = Callable[[WorkerEvent], None]
DataKey: TypeAlias = "tuple[AgentDataSettings, str, DataDescription | None, ModelSettings, str]"

_PROGRESS_INTERVAL_S = 0.25


class Trainer:
    """A warm worker keeps the engine's library and the data between tasks, but no model."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._data: tuple[DataKey, DeviceData] | None = None
        self._running: TaskControl | None = None
        self._hold = DataHold()

    def tighten(self) -> None:
        """Any thread: emit ``Tightened`` where the running task can do with less, ``EndsEarly`` where it cannot."""
        running = self._running
        if running is not None:
            self._emit(Tightened(running.chosen) if running.tighten() else EndsEarly())

    def run(self, command: TaskCommand) -> None:
        """Do one task and emit ``TaskDone``. Raises whatever went wrong."""
        from tinyfleet.edge_agent.worker.masks import MaskStore
        from tinyfleet.fedcore.methods.registry import method_of
        from tinyfleet.fedcore.planning.cost_model_file import measured_or_shipped, shipped, with_kernels_of
        from tinyfleet.fedcore.protocol.codec import decode
        from tinyfleet.fedcore.protocol.results import encode_result
        from tinyfleet.fedcore.training.registry import facts_of

        with contextlib.suppress(OSError):  # refused in some containers: the peak is then the process's
            reset_peak()
        facts = facts_of(command.engine)
        if command.memory_limit_bytes:
            self._hold.lift()
            self._hold.loading(command.memory_limit_bytes, facts)
        spec = convert(command.spec, RunSpec, "spec of the task")
        terms = convert(command.privacy, AgentPrivacySettings, "privacy")
        if reason := terms.objection(spec.privacy):
            self._emit(Unfit("ConfigError", reason))
            return
        masks = MaskStore(Path(command.masks))
        task = decode(Path(command.blob).read_bytes(), held=masks.get)
        if task.mask:
            masks.put(task.mask)
        method = method_of(spec)
        # Data first: what reading it takes for a moment does not come on top of the engine.
        settings = convert(command.data, AgentDataSettings, "data")
        data = self._data_of(settings, command.device, spec)
        cost_model = measured_or_shipped(Path(command.cost_model), facts.name)
        if cost_model is not None and spec.training.kernels == "shipped":
            cost_model = with_kernels_of(cost_model, shipped(facts.name))
        samples = len(data.train) + len(data.development)
        private = spec.privacy.mode != "none"
        silent = private or spec.secure_aggregation.enabled  # a local loss is the device's own
        running = control_of(command, method, task, cost_model, samples, self._emit, private=silent)
        if running.refusal:
            self._emit(Declined(running.refusal))
            return
        self._emit(Planned(running.chosen))
        result, train_s = self._train(command, method, task, data, running, cost_model)
        if private:
            result = _private(command, terms, spec, method, task, result)
        # The engine's model is gone, and the task's goes too: for a large one, encoding would be the task's peak.
        if result.params is not task.params:
            task.params.clear()
        write_atomic(Path(command.result), encode_result(result, task, spec.wire, method.upload_precision))
        self._emit(TaskDone(train_s, peak_rss_bytes(), facts.name))

    def _train(
        self,
        command: TaskCommand,
        method: Method,
        task: Payload,
        data: DeviceData,
        running: TaskControl,
        cost_model: CostModel | None,
    ) -> tuple[Payload, float]:
        """The result, and the seconds that it took; the engine lives no longer."""
        from tinyfleet.fedcore.training.engine_facts import NO_KERNEL_CHOICE
        from tinyfleet.fedcore.training.registry import create, facts_of

        kernel_choice = NO_KERNEL_CHOICE if cost_model is None else cost_model.kernel_choice
        needed = method.needs_engine(task)
        engine: Any = create(command.engine, command.threads, kernel_choice) if needed else None
        if command.memory_limit_bytes:
            self._hold.lower(command.memory_limit_bytes, facts_of(command.engine))
        self._emit(TrainingBegan(facts_of(command.engine).name))
        began = time.monotonic()
        self._running = running
        try:
            result = method.run(task, engine, data, running.control)
        finally:
            self._running = None
        return result, time.monotonic() - began

    def _data_of(self, settings: AgentDataSettings, device: str, spec: RunSpec) -> DeviceData:
        """The data of this device as the run wants it. Raises ``DataError`` where it is of another kind."""
        from tinyfleet.fedcore.datasets.contract import check_data
        from tinyfleet.fedcore.datasets.partition import device_data
        from tinyfleet.fedcore.datasets.registry import state_of

        # What has grown since the last task counts in this one.
        key = (settings, device, spec.contract, spec.model, state_of(settings.source))
        if self._data is None or self._data[0] != key:
            self._data = None  # the old data goes before the new comes
            data = device_data(settings, settings.index, device, spec.contract)
            check_data(data.description, spec.model)
            self._data = (key, data)
        return self._data[1]


def _private(
    command: TaskCommand,
    terms: AgentPrivacySettings,
    spec: RunSpec,
    method: Method,
    task: Payload,
    result: Payload,
) -> Payload:
    """What may leave the board of ``result``."""
    from tinyfleet.edge_agent.worker.releases import Releases
    from tinyfleet.fedcore.privacy.noise import private_result

    releases = Releases(Path(command.releases), terms.most_releases)
    noise = releases.noise() if spec.privacy.mode == "local" else None
    return private_result(spec.privacy, method, task, result, noise)


def memory_directory(command: TaskCommand) -> Path:
    """Where the run's personal state is: under its masks, with which it goes when the run ends."""
    return Path(command.masks) / "memory"


def peak_rss_bytes() -> int:
    """The largest resident set since the task began."""
    return status_bytes("VmHWM") or 0


def control_of(
    command: TaskCommand,
    method: Method,
    task: Payload,
    cost_model: CostModel | None,
    samples: int,
    emit: Emit,
    *,
    private: bool = False,
) -> TaskControl:
    """The task's plan and its ``Control``: progress goes out at most four times a second, a private run's
    without the loss."""
    from tinyfleet.edge_agent.worker.device_memory import FileMemory
    from tinyfleet.edge_agent.worker.task_control import TaskControl
    from tinyfleet.fedcore.methods.method import Control
    from tinyfleet.fedcore.planning.planner import plan_task
    from tinyfleet.fedcore.sparsity.mask import active_counts
    from tinyfleet.fedcore.training import allocator
    from tinyfleet.fedcore.training.engine_facts import MemoryModel
    from tinyfleet.fedcore.training.registry import facts_of

    last = -_PROGRESS_INTERVAL_S

    def progress(step: int, steps: int, loss: float) -> None:
        nonlocal last
        running.step_done()
        now = time.monotonic()
        if now - last >= _PROGRESS_INTERVAL_S or step == steps:
            last = now
            emit(StepsDone(step, steps, None if private else float(loss)))

    memory = FileMemory(memory_directory(command))
    control = Control(command.levers, steps=command.local_steps, memory=memory, progress=progress)
    plan, facts = None, facts_of(command.engine)
    if command.target_bytes and cost_model is not None:
        grow = task.meta.get("grow")
        plan = plan_task(
            method,
            cost_model,
            command.target_bytes,
            samples,
            first_way=command.first_way,
            factor=command.factor,
            growing=tuple(grow) if isinstance(grow, dict) else (),
            active=active_counts(task.mask),
            threads=command.threads,
        )

    def heap(roomy: bool) -> None:
        if facts.memory_model is MemoryModel.REPLAYED:  # the others' tensors do not come from the heap
            allocator.choose(roomy=roomy)

    running = TaskControl(control, plan, heap)
    return running
