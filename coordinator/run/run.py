"""One run while it is under way: its method, its state, its open step."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec

from tinyfleet.coordinator.run.aggregate import StepFold, StoredResult
from tinyfleet.coordinator.run.context import Context
from tinyfleet.coordinator.run.step import LiveTask, OpenStep
from tinyfleet.coordinator.selection.policy import Choice
from tinyfleet.coordinator.states import SETTLED_TASK_PHASES, TaskPhase
from tinyfleet.coordinator.store.records import StepSummary
from tinyfleet.coordinator.wire.task_blobs import TaskBlobs
from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.sparsity.mask import density, mask_digest

log = logging.getLogger(__name__)


class LiveRun:
    """Opens, resumes and finishes steps: the state on disk and the state in memory move together."""

    def __init__(self, context: Context, run: str, spec: RunSpec, method: Method, state_sha256: str) -> None:
        self.run, self.spec, self.method = run, spec, method
        self.state_sha256 = state_sha256
        self.state = codec.decode(context.ledger.blobs.read(state_sha256))
        self.open: OpenStep | None = None
        self.spec_data: dict[str, Any] = msgspec.to_builtins(spec)
        self._context = context
        self._task: tuple[int, Payload] | None = None  # of the coming or open step
        self._masks: OrderedDict[str, Mask] = OrderedDict()  # of the tasks whose results may still count

    @property
    def step(self) -> int:
        """The coming step, or the one that is open."""
        return _integer(self.state, "step")

    @property
    def training(self) -> bool:
        """True once the state is a model: selection stages have none to evaluate."""
        return bool(self.state.meta.get("stage") == "train")

    def counts_late(self, step: int) -> bool:
        """True where a result of an earlier ``step`` is still within the staleness window."""
        return bool(0 < self.step - step <= self.spec.fleet.staleness)

    def task(self) -> Payload:
        """The task of the coming step, made once."""
        if self._task is None or self._task[0] != self.step:
            self._task = self.step, self.method.configure_round(self.state)
        return self._task[1]

    def open_step(self, choice: Choice, now: float) -> OpenStep:
        """Start the coming step with the chosen devices: on disk first."""
        blobs = self._task_blobs(self.state)
        stage, round_ = blobs.stage, _integer(self.state, "round")
        self._context.ledger.open_step(self.run, self.step, stage, round_, self.state_sha256, choice)
        tasks = [LiveTask(plan.device, steps=plan.steps, keep=plan.keep) for plan in choice.cohort]
        self._begin(blobs, tasks, opened_at=now)
        log.info(
            "run %s: step %d (%s, round %d) opens for %d devices", self.run, self.step, stage, round_, len(tasks)
        )
        return self._require()

    def resume_step(self) -> None:
        """Take up the step that was open when the coordinator stopped: its stored results are folded again."""
        ledger = self._context.ledger
        found = ledger.open_step_of(self.run)
        for step, sha256 in sorted(ledger.base_states(self.run, self.step - self.spec.fleet.staleness).items()):
            if step < self.step and ledger.blobs.path(sha256).exists():
                self._task_blobs(codec.decode(ledger.blobs.read(sha256)))
        if found is None:
            return
        _, attempt, started = found
        tasks = []
        for row in ledger.tasks(self.run):
            if row.step == self.step:
                phase = TaskPhase(row.state)
                # What was under way is offered anew unless the device says that it is at it.
                phase = phase if phase in SETTLED_TASK_PHASES else TaskPhase.OFFERED
                tasks.append(
                    LiveTask(
                        row.device,
                        phase,
                        row.reason,
                        row.retries,
                        row.micro_batch,
                        row.peak_rss_bytes,
                        steps=row.steps,
                        keep=row.keep,
                    )
                )
        opened_at = self._context.clock() - max(0.0, ledger.now() - started)
        self._begin(self._task_blobs(self.state), tasks, opened_at=opened_at, attempt=attempt)
        log.info("run %s: step %d resumes with %d results", self.run, self.step, self._require().fold.results)

    def finish_step(self) -> OpenStep:
        """Aggregate, store the new state, close the step; returns it. Raises what the method raises."""
        step, ledger = self._require(), self._context.ledger
        step.flush()
        state = step.fold.finish()
        sha256 = ledger.blobs.put(codec.encode(state, precision="fp32"))
        times = [entry.train_s for entry in ledger.counted(self.run, step.step) if entry.step == step.step]
        duration_s = self._context.clock() - step.opened_at
        metrics = state.meta.get("metrics")
        measured: dict[str, Any] = metrics if isinstance(metrics, dict) else {}
        summary = StepSummary(
            duration_s=duration_s,
            overhead_s=max(0.0, duration_s - max(times, default=0.0)),
            results=step.fold.results,
            lost=step.lost(),
            loss=_number(measured.get("loss")),
            accuracy=_number(measured.get("accuracy")),
            density=density(self.method.deployed(state).mask),
        )
        ledger.finish_step(self.run, step.step, sha256, _integer(state, "round"), summary)
        log.info(
            "run %s: step %d done: %d results, %d lost, %.2f s (%.2f s overhead)",
            self.run,
            step.step,
            summary.results,
            len(summary.lost),
            duration_s,
            summary.overhead_s,
        )
        self.state, self.state_sha256, self.open = state, sha256, None
        return step

    # -- inside -------------------------------------------------------------------------

    def _begin(self, blobs: TaskBlobs, tasks: list[LiveTask], *, opened_at: float, attempt: int = 1) -> None:
        fold = StepFold(self.method, self.state, self._masks.get, self._stored)
        self.open = OpenStep(
            self._context,
            self.run,
            self.step,
            self.spec_data,
            self.spec.fleet,
            blobs,
            fold,
            tasks,
            opened_at=opened_at,
            attempt=attempt,
        )

    def _stored(self) -> Iterator[StoredResult]:
        for entry in self._context.ledger.counted(self.run, self.step):
            yield entry.step, entry.device, self._context.ledger.blobs.read(entry.sha256)

    def _task_blobs(self, state: Payload) -> TaskBlobs:
        """The task of ``state``'s step; its mask is kept to read results with."""
        task = self.task() if state is self.state else self.method.configure_round(state)
        self._masks[mask_digest(task.mask)] = task.mask
        self._masks.move_to_end(mask_digest(task.mask))
        while len(self._masks) > self.spec.fleet.staleness + 1:
            self._masks.popitem(last=False)
        return TaskBlobs(task, self.spec.wire, self._context.ledger.blobs, self._context.uploads)

    def _require(self) -> OpenStep:
        if self.open is None:
            raise AssertionError("no step is open")
        return self.open


def _integer(payload: Payload, key: str) -> int:
    value = payload.meta[key]
    if not isinstance(value, int):
        raise TypeError(f"state has {key} {value!r}, not an integer")
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
