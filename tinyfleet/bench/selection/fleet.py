"""A run on the emulated fleet: really trained, under a clock that is a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tinyfleet.bench.selection.clock import EmulatedBoard
from tinyfleet.coordinator.selection.candidates import choose
from tinyfleet.coordinator.store.records import Share, TaskTime
from tinyfleet.coordinator.store.rows import DeviceRow
from tinyfleet.coordinator.store.tasks import REMEMBERED
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.training.engine import Engine
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.registry import REFERENCE
from tinyfleet.simulation import SimulatedDevice, Simulation, StepRecord


@dataclass(frozen=True, slots=True)
class Point:
    """After one step. ``accuracy`` is None in stages that do not train."""

    seconds: float  # of the virtual clock, since the run began
    round: int
    accuracy: float | None
    round_s: float
    parts: int  # devices that were given a part of the job
    left_out: int


class TaskHistory:
    """What the coordinator's store would know: who was chosen when, and how long it took."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._times: dict[tuple[str, str], list[tuple[float, float, int]]] = {}

    def last_chosen(self, run: str) -> dict[str, int]:
        return dict(self._last)

    def refusals(self, run: str) -> dict[str, int]:
        return {}  # all of its devices are honest

    def unfit(self, run: str) -> dict[str, str]:
        return {}

    def times(
        self, run: str, stage: str, whole_local_steps: Mapping[str, int], deadline_s: float
    ) -> list[TaskTime]:
        return [
            TaskTime(device, train_s, wall_s, local_steps or whole_local_steps[device])
            for (at, device), times in self._times.items()
            if at == stage and device in whole_local_steps
            for train_s, wall_s, local_steps in times[-REMEMBERED:]
        ]

    def note(self, step: int, stage: str, share: Share, train_s: float, wall_s: float) -> None:
        """One task is done."""
        self._last[share.device] = step
        self._times.setdefault((stage, share.device), []).append((train_s, wall_s, share.local_steps))


class EmulatedFleet(Simulation):
    """A simulation whose cohort comes from the coordinator's own selection, and whose steps take virtual time."""

    run = "bench"

    def __init__(self, spec: RunSpec, engine: Engine, boards: list[EmulatedBoard]) -> None:
        super().__init__(spec, engine, [board.device for board in boards])
        self.boards = {board.device: board for board in boards}
        self.by_name = {device.data.name: device for device in self.devices}
        self.memory, self.seconds = TaskHistory(), 0.0
        self._shares: tuple[Share, ...] = ()
        self._left_out = 0

    @property
    def at(self) -> int:
        return int(self.state.meta["step"])  # type: ignore[arg-type]

    def cohort(self) -> list[SimulatedDevice]:
        """The devices that the run's policy chooses, each with its part of the job."""
        rows = [self._row(device) for device in self.devices]
        choice = choose(self.memory, Coming(self), rows, size=self.spec.fleet.cohort)
        self._shares, self._left_out = choice.cohort, len(choice.left_out)
        for share in choice.cohort:
            device = self.by_name[share.device]
            device.steps, device.levers = share.local_steps, Levers(activation_keep=share.activation_keep)
        return [self.by_name[share.device] for share in choice.cohort]

    def advance(self) -> Point:
        """One step, and the time that its slowest device takes; the deadline ends it for nobody here."""
        step, task = self.at, self.method.configure_round(self.state)
        record = self.step()
        round_s = max(self._seconds(share, task, step, record) for share in self._shares)
        self.seconds += round_s
        parts = sum(share.local_steps > 0 for share in self._shares)
        return Point(self.seconds, record.round, record.test_accuracy, round_s, parts, self._left_out)

    def _seconds(self, share: Share, task: Payload, step: int, record: StepRecord) -> float:
        data, board = self.by_name[share.device].data, self.boards[share.device]
        samples, development = len(data.train) + len(data.development), len(data.development)
        portion = share.local_steps / share.whole_local_steps if share.local_steps else 1.0
        train_s = board.training_s(portion * self.method.cost(task, samples, development).flops)
        wall_s = train_s + board.overhead_s(record.bytes_down + record.bytes_up)
        self.memory.note(step, record.stage, share, train_s, wall_s)
        return wall_s

    def _row(self, device: SimulatedDevice) -> DeviceRow:
        name, data = device.data.name, device.data
        profile, samples = self.boards[name].profile, len(data.train) + len(data.development)
        return DeviceRow(name, name, "accepted", True, 0.0, profile, {}, samples, [REFERENCE.name], 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Coming:
    """The fleet's coming step, as the selection asks for it."""

    fleet: EmulatedFleet

    @property
    def run(self) -> str:
        return self.fleet.run

    @property
    def spec(self) -> RunSpec:
        return self.fleet.spec

    @property
    def method(self) -> Method:
        return self.fleet.method

    @property
    def step(self) -> int:
        return self.fleet.at

    def task(self) -> Payload:
        return self.fleet.method.configure_round(self.fleet.state)
