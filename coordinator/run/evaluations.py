"""States that wait to be measured on held-out test data, beside the run."""

from __future__ import annotations

import logging
from typing import NamedTuple

from tinyfleet.coordinator.run.engine_process import EngineFailed, EngineRequests, Evaluated
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.run_spec import RunSpec

log = logging.getLogger(__name__)

MAX_WAITING = 4  # states that may wait for the engine process; older ones are skipped
RESULT = -1  # in a step's place: a result that is the state after no step


class Waiting(NamedTuple):
    """A state that is to be measured."""

    sha256: str
    validate: bool  # on validation data, too


class Evaluations:
    """One state is with the engine process, a few more wait; none ever holds up a step."""

    def __init__(self, store: Store, engine: EngineRequests) -> None:
        self._store = store
        self._engine = engine
        self._states: dict[int, Waiting] = {}  # step -> the state after it; the first is being measured
        self._run = ""
        self._spec = RunSpec()

    @property
    def waiting(self) -> bool:
        return bool(self._states)

    @property
    def digests(self) -> list[str]:
        """Blobs that must stay until they are measured."""
        return [state.sha256 for state in self._states.values()]

    def add(self, run: str, spec: RunSpec, step: int, sha256: str, *, validate: bool = False) -> None:
        """Measure the state after ``step``, or the ``RESULT``, as soon as may be.

        Where the best state is the result, all are measured, however long that takes.
        """
        self._run, self._spec = run, spec
        self._states[step] = Waiting(sha256, validate)
        late = [] if spec.result == "best" else list(self._states)[1:-MAX_WAITING]
        for number in late:
            del self._states[number]
            log.warning("the state after step %d is not measured: the engine process falls behind", number)
            self._store.steps.save_no_evaluation(run, number, "the engine process fell behind")
        if len(self._states) == 1:
            self._next()

    def on_answer(self, answer: Evaluated | EngineFailed) -> None:
        """The engine process is done with the first."""
        if not self._states:
            return
        step = next(iter(self._states))
        del self._states[step]
        if isinstance(answer, Evaluated):
            self._save(answer)
        else:
            log.warning("the state after step %d could not be measured: %s", step, answer.reason)
            self._store.steps.save_no_evaluation(self._run, step, answer.reason)
        self._next()

    def clear(self) -> None:
        """The run has ended."""
        self._states.clear()

    def _save(self, answer: Evaluated) -> None:
        validation = answer.validation
        if answer.step == RESULT:
            accuracy = None if validation is None else validation[1]
            self._store.runs.save_evaluation_of_result(self._run, answer.accuracy, accuracy)
        else:
            self._store.steps.save_evaluation(self._run, answer.step, answer.loss, answer.accuracy, validation)

    def _next(self) -> None:
        while self._states:
            step, (sha256, validate) = next(iter(self._states.items()))
            if self._store.blobs.is_sound(sha256):
                self._engine.evaluate(self._spec, step, self._store.blobs.path(sha256), validate=validate)
                return
            log.warning("the state after step %d cannot be measured: blob %s is damaged", step, sha256[:12])
            self._store.steps.save_no_evaluation(self._run, step, "its blob is damaged")
            del self._states[step]
