"""States that wait to be measured on held-out test data, beside the run."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tinyfleet.coordinator.run.engine_process import EngineFailed, EngineRequests, Evaluated
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.run_spec import RunSpec

log = logging.getLogger(__name__)

MAX_WAITING = 4  # states that may wait for the engine process; older ones are skipped


class Evaluations:
    """One state is with the engine process, a few more wait; none ever holds up a step."""

    def __init__(self, store: Store, engine: EngineRequests) -> None:
        self._store = store
        self._engine = engine
        self._states: dict[int, str] = {}  # step -> digest of the state after it; the first is being measured
        self._run = ""
        self._spec = RunSpec()

    @property
    def waiting(self) -> bool:
        return bool(self._states)

    @property
    def digests(self) -> list[str]:
        """Blobs that must stay until they are measured."""
        return list(self._states.values())

    def add(self, run: str, spec: RunSpec, step: int, sha256: str) -> None:
        """Measure the state after ``step`` as soon as may be."""
        self._run, self._spec = run, spec
        self._states[step] = sha256
        for number in list(self._states)[1:-MAX_WAITING]:
            del self._states[number]
            log.warning("the state after step %d is not measured: the engine process falls behind", number)
            self._store.steps.save_no_evaluation(run, number, "the engine process fell behind")
        if len(self._states) == 1:
            self._next()

    def resume(
        self, run: str, spec: RunSpec, coming: int, sha256: str, is_measurable: Callable[[str | None], bool]
    ) -> None:
        """After a restart: the states that were never measured and are still there.

        Each is what the next step started from, and the ``coming`` one starts from ``sha256``; ``is_measurable``
        tells by the stage of the step after it, None where that has not begun.
        """
        rows = {row.step: row for row in self._store.steps.of(run)}
        states = {**self._store.steps.base_states(run, 0), coming: sha256}
        for step, row in rows.items():
            following, state = rows.get(step + 1), states.get(step + 1)
            if (
                row.test_accuracy is None
                and not row.evaluation
                and is_measurable(None if following is None else following.stage)
                and state is not None
                and self._store.blobs.is_sound(state)
            ):
                self.add(run, spec, step, state)

    def on_answer(self, answer: Evaluated | EngineFailed) -> None:
        """The engine process is done with the first."""
        if not self._states:
            return
        step = next(iter(self._states))
        del self._states[step]
        if isinstance(answer, Evaluated):
            self._store.steps.save_evaluation(self._run, answer.step, answer.loss, answer.accuracy)
        else:
            log.warning("the state after step %d could not be measured: %s", step, answer.reason)
            self._store.steps.save_no_evaluation(self._run, step, answer.reason)
        self._next()

    def clear(self) -> None:
        """The run has ended."""
        self._states.clear()

    def _next(self) -> None:
        while self._states:
            step, sha256 = next(iter(self._states.items()))
            if self._store.blobs.is_sound(sha256):
                self._engine.evaluate(self._spec, step, self._store.blobs.path(sha256))
                return
            log.warning("the state after step %d cannot be measured: blob %s is damaged", step, sha256[:12])
            self._store.steps.save_no_evaluation(self._run, step, "its blob is damaged")
            del self._states[step]
