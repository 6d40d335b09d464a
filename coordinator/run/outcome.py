"""Which of a run's states is its result, by what is in the store: the same after a restart as without one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from tinyfleet.coordinator.errors import DamagedBlob
from tinyfleet.coordinator.run.method_state import MethodState
from tinyfleet.coordinator.store.records import ChosenState
from tinyfleet.coordinator.store.rows import StepRow
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.outcome.averaging import averaged
from tinyfleet.fedcore.outcome.choice import Validated, best, shortfall
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import RunSpec

log = logging.getLogger(__name__)


class TrainedState(NamedTuple):
    """A state after a training round. Its blob may be gone."""

    round: int  # rounds that are done in it
    step: int  # that it is the state after
    sha256: str


class RunOutcome:
    """The result of one run. ``latest`` is where the run stands."""

    def __init__(self, store: Store, run: str, spec: RunSpec, latest: MethodState) -> None:
        self._store, self._run, self._spec, self._latest = store, run, spec, latest

    def window(self) -> list[TrainedState]:
        """The states that an average is made of, by now: one a round, the last one last."""
        by_round: dict[int, TrainedState] = {}
        rows = {row.step: row for row in self._store.steps.of(self._run)}
        for step, sha256 in sorted(self._store.steps.states_after(self._run).items()):
            following = rows.get(step + 1)
            if step + 1 == self._latest.step:
                round_, trained = self._latest.round, self._latest.trained
            elif following is None:
                continue
            else:
                round_ = following.round
                trained = round_ > 0 and self._latest.method.measurable(following.stage)
            if trained:
                by_round[round_] = TrainedState(round_, step, sha256)
        return [by_round[round_] for round_ in sorted(by_round)][-self._spec.training.average_rounds :]

    def average(self) -> str | None:
        """Digest of the mean of the last rounds' states, which is on disk by then; None where there is none."""
        states = self._sound(self.window())
        try:
            mean = averaged(self._latest.method.problem.graph, states)
        except ValueError:
            return None
        return self._store.blobs.put(codec.encode(mean, precision="fp32"))

    def of(self, latest_sha256: str) -> ChosenState:
        """The result as the store knows it; where it cannot be what was asked for, the last state, and why."""
        rows = self._store.steps.of(self._run)
        states = self._store.steps.states_after(self._run)
        last = self._latest.step - 1
        measured = {row.step: row for row in rows}
        best_step = self._store.steps.best(self._run)
        best_sha256 = None if best_step is None else states.get(best_step)
        why = ""
        match self._spec.result:
            case "averaged":
                if (sha256 := self.average()) is not None:
                    row = self._store.runs.get(self._run)
                    test, validation = row.result_test_accuracy, row.result_validation_accuracy
                    return ChosenState(
                        "averaged", last, sha256, best_sha256, test, validation, self._warning(test, rows)
                    )
                why = "there is no trained state to average; its result is its last state"
            case "best":
                chosen = best(_validated(rows))
                if chosen is not None and self._store.blobs.is_sound(states.get(chosen.step, "")):
                    row_ = measured[chosen.step]
                    sha256 = states[chosen.step]
                    test, validation = row_.test_accuracy, row_.validation_accuracy
                    return ChosenState("best", chosen.step, sha256, best_sha256, test, validation)
                gone = (
                    "its best state is damaged" if chosen else "none of its states was measured on validation data"
                )
                why = f"{gone}; its result is its last state"
        found = measured.get(last)
        test, validation = (None, None) if found is None else (found.test_accuracy, found.validation_accuracy)
        warning = "; ".join(filter(None, (why, self._warning(test, rows))))
        return ChosenState("last", last, latest_sha256, best_sha256, test, validation, warning)

    def _warning(self, test: float | None, rows: list[StepRow]) -> str:
        return shortfall(test, {row.step: row.test_accuracy for row in rows if row.test_accuracy is not None})

    def _sound(self, states: list[TrainedState]) -> Iterator[Payload]:
        for state in states:
            try:
                yield codec.decode(self._store.blobs.read(state.sha256))
            except DamagedBlob as error:
                log.warning("run %s: the average does without round %d: %s", self._run, state.round, error)


def _validated(rows: list[StepRow]) -> list[Validated]:
    return [
        Validated(row.step, row.validation_accuracy, row.validation_loss)
        for row in rows
        if row.validation_accuracy is not None and row.validation_loss is not None
    ]
