"""Which states of a run are measured, and on what: beside its steps, and none is forgotten by a restart."""

from __future__ import annotations

from tinyfleet.coordinator.run.evaluations import RESULT, Evaluations
from tinyfleet.coordinator.run.method_state import MethodState
from tinyfleet.coordinator.run.outcome import RunOutcome
from tinyfleet.coordinator.step.context import Context
from tinyfleet.fedcore.run_spec import RunSpec


class Measuring:
    """What one run asks of the engine process about its states. Where the run stands is told with each question."""

    def __init__(self, context: Context, run: str, spec: RunSpec, evaluations: Evaluations) -> None:
        self._store, self._run, self._spec = context.store, run, spec
        self._evaluations = evaluations
        # Where the best state is the result, whatever the coordinator's settings say.
        self._wanted = context.config.evaluate or spec.result == "best"
        self._averaged = False  # the average is made, and measured or about to be

    @property
    def digests(self) -> list[str]:
        """Blobs that must stay until they are measured."""
        return self._evaluations.digests

    def finished(self, latest: MethodState) -> bool:
        """True once a run that has done its last step has all its states measured, an average the last of them."""
        return not self._evaluations.waiting and not self._average_is_due(latest)

    def add(self, latest: MethodState, step: int, sha256: str) -> None:
        """Measure the state after ``step``, which is the latest, beside the coming one."""
        if self._wanted and latest.training:
            self._add(step, sha256, trained=latest.trained)

    def resume(self, latest: MethodState, sha256: str) -> None:
        """The states that are still there and were never measured: each is what the next step started from."""
        if not self._wanted:
            return
        store = self._store
        rows = {row.step: row for row in store.steps.of(self._run)}
        states = {**store.steps.base_states(self._run, 0), latest.step: sha256}
        for step, row in rows.items():
            following = rows.get(step + 1)
            training = latest.training if following is None else latest.method.measurable(following.stage)
            round_ = latest.round if following is None else following.round
            state = states.get(step + 1)
            if (
                row.test_accuracy is None
                and row.validation_accuracy is None
                and not row.evaluation
                and training
                and state is not None
                and store.blobs.is_sound(state)
            ):
                self._add(step, state, trained=round_ > 0)

    def _average_is_due(self, latest: MethodState) -> bool:
        """True where the mean of the last rounds, being the result, is about to be measured."""
        if self._averaged or not self._wanted or self._spec.result != "averaged":
            return False
        self._averaged = True
        sha256 = RunOutcome(self._store, self._run, self._spec, latest).average()
        if sha256 is None:
            return False
        self._add(RESULT, sha256, trained=True)
        return True

    def _add(self, step: int, sha256: str, *, trained: bool) -> None:
        validate = trained and self._spec.data.validation_fraction > 0
        self._evaluations.add(self._run, self._spec, step, sha256, validate=validate)
