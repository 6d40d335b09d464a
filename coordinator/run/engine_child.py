"""The engine process: pre-training and evaluation, in a process of its own so that torch is only ever here.

Reads one JSON command a line, answers one JSON event a line (``engine_process`` is the other end).
Ends when its input closes, and at once when the coordinator dies.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from tinyfleet.fedcore.child import die_with
from tinyfleet.fedcore.datasets.contract import check_data
from tinyfleet.fedcore.datasets.dataset import Dataset, Normalization
from tinyfleet.fedcore.datasets.partition import public_data, test_data, validation_data
from tinyfleet.fedcore.errors import DataError, TinyfleetError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.methods import registry as methods
from tinyfleet.fedcore.methods.method import Problem, normalization_of
from tinyfleet.fedcore.methods.start import read_start
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import DataSettings, RunSpec
from tinyfleet.fedcore.settings import convert
from tinyfleet.fedcore.training import registry as engines
from tinyfleet.fedcore.training.engine import Engine, Evaluation

log = logging.getLogger(__name__)

EVALUATION_BATCH = 256


class Workbench:
    """An engine, and one run's problem and test data, kept from command to command."""

    def __init__(self, engine: str, threads: int) -> None:
        self._engine_name = engine
        self._threads = threads
        self._spec: RunSpec | None = None

    def prepare(self, spec: RunSpec, target: Path) -> None:
        """Write the run's initial state to ``target``, atomically."""
        self._open(spec)
        if spec.model.init:
            self._method = methods.method_of(spec, read_start(target.parent, spec))
        public = self._public(spec)
        check_data(public.description, spec.model)
        state = self._method.initial_state(self._engine, public)
        write_atomic(target, codec.encode(state, precision="fp32"))

    def _public(self, spec: RunSpec) -> Dataset:
        """Public data; where the run asks for none, no source need be here."""
        if spec.data.public_fraction:
            return public_data(spec.data, spec.contract)
        shape, classes = spec.model.input_shape, spec.model.classes
        return Dataset(np.zeros((0, *shape), np.float32), np.zeros(0, np.int64), classes)

    def evaluate(self, spec: RunSpec, state: Path, *, validate: bool) -> dict[str, float | bool]:
        """Loss and accuracy of a state under its mask, on test data that no training or selection sees.

        ``validate``: on validation data, too; a run that has that may do without test data.
        """
        self._open(spec)
        payload = self._method.deployed(codec.decode(state.read_bytes()))
        self._engine.load(self._problem.graph, payload.params, payload.mask)
        normalise, figures = normalization_of(payload), dict[str, float | bool]()
        if validate and len(validation := self._held_out(validation_data, spec)):
            evaluation = self._measure(normalise, validation)
            figures = {"validation_loss": evaluation.loss, "validation_accuracy": evaluation.accuracy}
        test = self._held_out(test_data, spec)
        if not len(test) and figures:
            return figures | {"untested": True}
        evaluation = self._measure(normalise, test)
        return figures | {"loss": evaluation.loss, "accuracy": evaluation.accuracy}

    def _measure(self, normalise: Normalization, data: Dataset) -> Evaluation:
        if not len(data):
            raise DataError("there is no test data: raise data.test_fraction (0.2, say)")
        evaluation = self._engine.evaluate(normalise(data.x), data.y, EVALUATION_BATCH)
        if not math.isfinite(evaluation.loss):
            raise DataError(f"its loss is {evaluation.loss}: training diverged, lower training.learning_rate")
        return evaluation

    def _open(self, spec: RunSpec) -> None:
        if spec == self._spec:
            return
        self._problem: Problem = methods.problem_of(spec)
        self._method = methods.method_of(spec)
        self._engine: Engine = engines.create(self._engine_name, self._threads)
        self._kept: dict[Callable[[DataSettings, DataDescription | None], Dataset], Dataset] = {}
        self._spec = spec

    def _held_out(self, part: Callable[[DataSettings, DataDescription | None], Dataset], spec: RunSpec) -> Dataset:
        """That part of the run's data, read once."""
        if part not in self._kept:
            self._kept[part] = part(spec.data, spec.contract)
        return self._kept[part]


def answer(bench: Workbench, command: dict[str, Any]) -> dict[str, Any]:
    """Do one command; what goes wrong with it is its answer."""
    try:
        spec = convert(command["spec"], RunSpec, "run")
        if command["command"] == "prepare":
            bench.prepare(spec, Path(command["target"]))
            return {"event": "prepared", "path": command["target"]}
        figures = bench.evaluate(spec, Path(command["state"]), validate=bool(command.get("validate")))
        return {"event": "evaluated", "step": command["step"], **figures}
    except (TinyfleetError, OSError) as error:
        return {"event": "failed", "reason": str(error)}


def serve(bench: Workbench, source: BinaryIO, sink: BinaryIO) -> None:
    """Answer commands until the input ends."""
    for line in source:
        sink.write(msgspec.json.encode(answer(bench, msgspec.json.decode(line))) + b"\n")
        sink.flush()


def main() -> None:
    """Entry point of ``python -m tinyfleet.coordinator.run.engine_child``."""
    parser = argparse.ArgumentParser(prog="tinyfleet.coordinator.run.engine_child")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--nice", type=int, default=5)
    parser.add_argument("--parent", type=int, help="process that it dies with")
    options = parser.parse_args()
    if options.parent is not None:
        die_with(options.parent)
    os.nice(options.nice)
    # Answers own the real standard output; a library's print goes to standard error.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # at once, too
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(Workbench(options.engine, options.threads), sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
