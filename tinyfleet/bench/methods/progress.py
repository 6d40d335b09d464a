"""A method benchmark's live picture on a terminal: one bar for all runs, one for each that is running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tinyfleet.bench.methods.cell import Cell
from tinyfleet.bench.methods.config import CellSpec

if TYPE_CHECKING:
    from types import TracebackType


class BenchProgress:
    """Hears of cells; elsewhere than on a terminal it writes a line for each finished one."""

    def __init__(self, console: Console, cells: Sequence[CellSpec]) -> None:
        self._console = console
        self._cells = {cell.key: cell for cell in cells}
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("runs", total=len(cells))
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> BenchProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def finished(self, cell: Cell, done: int, total: int) -> None:
        """One line above the bars."""
        value = f"{cell.accuracy_last10:.1%}" if cell.accuracy_last10 is not None else f"failed: {cell.reason}"
        where = f"{cell.method}, density {cell.density:g}, {cell.dataset}, seed {cell.seed}"
        self._console.print(
            f"{done}/{total} {where}: {value} ({cell.seconds:.0f} s)", markup=False, highlight=False
        )
        self._bars.update(self._all, completed=done)

    def running(self, rounds: Mapping[str, int]) -> None:
        """Finished training rounds by running cell."""
        for key in self._running.keys() - rounds.keys():
            self._bars.remove_task(self._running.pop(key))
        for key, finished in rounds.items():
            cell = self._cells.get(key)
            if cell is None:
                continue
            if key not in self._running:
                title = f"{cell.method} {cell.density:g}, seed {cell.spec.seed}"
                self._running[key] = self._bars.add_task(title, total=cell.spec.training.rounds)
            self._bars.update(self._running[key], completed=finished)
