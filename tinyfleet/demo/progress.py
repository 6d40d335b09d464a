"""The demo's live picture of the coordinator's store; without a terminal, a line a round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from types import TracebackType

    from tinyfleet.coordinator.store.rows import DeviceRow, RunRow, StepRow, TaskRow
    from tinyfleet.coordinator.store.store import Store

_BUSY = {"offered": "yellow", "accepted": "yellow", "running": "green", "uploading": "cyan", "stored": "dim"}


class DemoProgress:
    """Shows some runs of a store. ``update`` reads the store and redraws; entering and leaving own the screen."""

    def __init__(self, console: Console, store: Store, titles: Mapping[str, str]) -> None:
        self._console = console
        self._store = store
        self._titles = dict(titles)  # run -> what a person calls it
        self._told: set[tuple[str, int]] = set()
        self._started = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> DemoProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self) -> list[RunRow]:
        """Read, draw, and return the runs' rows."""
        rows = [self._store.runs.get(run) for run in self._titles]
        if self._live is None:
            self._tell(rows)
        else:
            self._live.update(self._picture(rows))
        return rows

    # -- without a terminal -------------------------------------------------------------

    def _tell(self, rows: list[RunRow]) -> None:
        for row in rows:
            for step in self._store.steps.of(row.run):
                if step.finished is None or _awaits_evaluation(step, row):
                    continue
                if (row.run, step.step) not in self._told:
                    self._told.add((row.run, step.step))
                    self._console.print(
                        f"{self._titles[row.run]}: {step_line(step, row.rounds)}", highlight=False, soft_wrap=True
                    )

    # -- on a terminal ------------------------------------------------------------------

    def _picture(self, rows: list[RunRow]) -> RenderableType:
        seconds = time.monotonic() - self._started
        current = next((row for row in rows if row.state in ("preparing", "running")), None)
        steps = self._store.steps.of(current.run) if current else []
        parts: list[RenderableType] = [Text(f"{seconds:4.0f} s", style="dim"), self._runs(rows)]
        if current is not None and steps:
            tasks = [task for task in self._store.tasks.of(current.run) if task.step == steps[-1].step]
            parts.append(agents_table(self._store.devices.all(), tasks))
        return Group(*parts)

    def _runs(self, rows: list[RunRow]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("run", "", "round", "stage", "loss", "test accuracy", "up", "down"):
            table.add_column(name)
        for row in rows:
            steps = [step for step in self._store.steps.of(row.run) if step.finished is not None]
            table.add_row(
                self._titles[row.run],
                ProgressBar(total=row.rounds, completed=row.round, width=24),
                f"{row.round}/{row.rounds}",
                row.state if not steps or row.state == "finished" else steps[-1].stage,
                _latest(steps, lambda s: s.loss, "{:.3f}"),
                _latest(steps, lambda s: s.test_accuracy, "{:.1%}"),
                _latest(steps, lambda s: s.bytes_up, "{:,.0f} B"),
                _latest(steps, lambda s: s.bytes_down, "{:,.0f} B"),
            )
        return table


def agents_table(devices: list[DeviceRow], tasks: list[TaskRow]) -> Table:
    """What each agent does now."""
    by_device = {task.device: task for task in tasks}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("agent", "state", "local steps", "supervisor", "worker peak", "samples"):
        table.add_column(name)
    for device in devices:
        task = by_device.get(device.device)
        state = ("idle" if task is None else task.state) if device.online else "offline"
        table.add_row(
            device.name or device.device,
            Text(state, style=_BUSY.get(state, "red" if state in ("lost", "failed", "offline") else "")),
            ""
            if task is None or not task.local_steps_total
            else f"{task.local_steps_done}/{task.local_steps_total}",
            f"{device.idle_rss_bytes / 1e6:.1f} MB" if device.idle_rss_bytes else "",
            f"{device.peak_rss_bytes / 1e6:.0f} MB" if device.peak_rss_bytes else "",
            str(device.samples),
        )
    return table


def step_line(step: StepRow, rounds: int) -> str:
    """One finished step in one line."""
    where = f"round {step.round + 1:2d}/{rounds}" if step.stage == "train" else step.stage
    parts = [f"{where:<13}", f"{step.results}/{step.expected} results"]
    for value, form in (
        (step.loss, "loss {:.3f}"),
        (step.test_accuracy, "test accuracy {:.1%}"),
        (step.bytes_up, "up {:,.0f} B"),
        (step.bytes_down, "down {:,.0f} B"),
        (step.duration_s, "{:.2f} s"),
    ):
        if value is not None:
            parts.append(form.format(value))
    parts += [f"lost {loss['device']} ({loss['reason']})" for loss in step.lost]
    return "  ".join(parts)


def _awaits_evaluation(step: StepRow, row: RunRow) -> bool:
    """A step's evaluation comes a little after its end; one that fell too far behind never comes."""
    unmeasured = step.stage == "train" and step.test_accuracy is None
    return unmeasured and row.state == "running" and step.step > row.step - 6


def _latest(steps: list[StepRow], value: Callable[[StepRow], float | None], form: str) -> str:
    found = [number for number in map(value, steps) if number is not None]
    return form.format(found[-1]) if found else ""
