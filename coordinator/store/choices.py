"""What selections leave in the store, and what they look back on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from tinyfleet.coordinator.selection.forecast import REMEMBERED, TaskTime
from tinyfleet.coordinator.selection.policy import Choice, Plan
from tinyfleet.coordinator.states import TaskPhase
from tinyfleet.coordinator.store.store import Store


class Choices(Store):
    """The store with the writes of selections. A method is one statement, or part of its caller's transaction."""

    def note_choice(self, run: str, step: int, choice: Choice) -> None:
        """What ``step`` had in mind for its candidates; it takes the place of what earlier steps had."""
        for plan in choice.plans:
            self._db.write(
                "INSERT OR REPLACE INTO plans (device, run, step, part, chosen, steps, whole_steps, keep,"
                " predicted_s, basis, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                plan.device,
                run,
                step,
                plan.part,
                plan.chosen,
                plan.steps,
                plan.whole_steps,
                plan.keep,
                plan.predicted_s,
                plan.basis,
                plan.reason,
            )
        self._db.write(
            "UPDATE steps SET left_out = json_patch(left_out, ?) WHERE run = ? AND step = ?",
            msgspec.json.encode(choice.left_out).decode(),
            run,
            step,
        )

    def note_waiting(self, run: str, step: int, choice: Choice) -> None:
        """The same for a step that cannot open yet: too few candidates are fit for it."""
        with self._db.relaxed():
            self.note_choice(run, step, choice)

    def offer(self, run: str, step: int, plans: Iterable[Plan]) -> None:
        """Each device's task, with the part of the job that it is given."""
        for plan in plans:
            self._db.write(
                "INSERT INTO tasks (run, step, device, state, steps, keep) VALUES (?, ?, ?, ?, ?, ?)",
                run,
                step,
                plan.device,
                TaskPhase.OFFERED,
                plan.steps,
                plan.keep,
            )

    def offer_again(self, run: str, step: int, devices: Iterable[str]) -> None:
        """The same part of the job once more, for devices that are back."""
        for device in devices:
            self._db.write(
                "UPDATE tasks SET state = ?, reason = '' WHERE run = ? AND step = ? AND device = ?",
                TaskPhase.OFFERED,
                run,
                step,
                device,
            )

    def last_chosen(self, run: str) -> dict[str, int]:
        """Device -> latest step of the run that it was given a task of."""
        rows = self._db.read("SELECT device, max(step) AS step FROM tasks WHERE run = ? GROUP BY device", run)
        return {row["device"]: row["step"] for row in rows}

    def task_times(self, run: str, stage: str, whole_steps: Mapping[str, int], deadline_s: float) -> list[TaskTime]:
        """The latest tasks of each device in this stage, at most ``REMEMBERED``.

        One that missed its deadline took that long at the least. ``whole_steps`` are those of the whole job,
        by device; 1 where it cannot be divided.
        """
        rows = self._db.read(
            "SELECT device, coalesce(train_s, ?) AS train_s, coalesce(wall_s, task_s, ?) AS wall_s, steps FROM"
            " (SELECT *, row_number() OVER (PARTITION BY device ORDER BY step DESC) AS age FROM tasks"
            "  WHERE run = ? AND (train_s IS NOT NULL OR (state = 'lost' AND reason = 'deadline'))"
            "  AND step IN (SELECT step FROM steps WHERE run = ? AND stage = ?))"
            " WHERE age <= ? ORDER BY device, step",
            deadline_s,
            deadline_s,
            run,
            run,
            stage,
            REMEMBERED,
        )
        return [
            TaskTime(row["device"], row["train_s"], row["wall_s"], row["steps"] or whole_steps[row["device"]])
            for row in rows
            if row["device"] in whole_steps
        ]
