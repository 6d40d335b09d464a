"""Any method without public data: one step before its own in which the devices measure their inputs.

Each sends sums over its samples, and the coordinator adds them as exact fractions: the normalisation is that of all
samples in one place, in any order of arrival.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np

from tinyfleet.fedcore.accounting import Cost
from tinyfleet.fedcore.datasets.dataset import LEAST_STD, Dataset, DeviceData, Normalization
from tinyfleet.fedcore.errors import ConfigError, ResultError
from tinyfleet.fedcore.methods.method import CARRIED, Control, Fold, Method, normalization_entry
from tinyfleet.fedcore.methods.parts.checks import checked_samples, finite, integer
from tinyfleet.fedcore.methods.summing.summands import SumStage
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.training.engine import Engine, StepSettings

STAGE = "input_statistics"
FIRST = "first_stage"  # in the meta of the state before it: what the wrapped method begins with


class OwnNormalization(Method):
    """``inner``, which starts from nothing public. Raises ``ConfigError`` where it needs public data."""

    def __init__(self, inner: Method) -> None:
        super().__init__(inner.settings, inner.problem)
        if need := inner.needs_public_data():
            remedy = "or raise data.public_fraction (0.1, say)"
            raise ConfigError(f"data.public_fraction is 0, and method {inner.name} {need}, {remedy}")
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]
        self.upload_precision = inner.upload_precision  # type: ignore[misc]
        self.own_masks = inner.own_masks  # type: ignore[misc]

    @property
    def _channels(self) -> int:
        return self.problem.graph.input_shape[0]

    # -- coordinator half ---------------------------------------------------------------

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """The state that ``inner`` starts from, which waits here until the inputs are measured."""
        state = self.inner.initial_state(engine, public)
        state.meta |= {FIRST: state.meta["stage"], "stage": STAGE}
        return state

    def configure_round(self, state: Payload) -> Payload:
        if not _measures(state):
            return self.inner.configure_round(state)
        return Payload({key: state.meta[key] for key in CARRIED})  # the model stays at home

    def begin_fold(self, state: Payload) -> Fold:
        return InputFold(self._channels) if _measures(state) else self.inner.begin_fold(state)

    def fold(self, fold: Any, result: Payload) -> None:
        if isinstance(fold, InputFold):
            fold.add(result)
        else:
            self.inner.fold(fold, result)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        if not isinstance(fold, InputFold):
            return self.inner.finish_round(state, fold)
        meta: dict[str, Json] = {key: value for key, value in state.meta.items() if key != FIRST}
        meta |= {
            "step": integer(state, "step") + 1,
            "stage": state.meta[FIRST],
            "normalization": normalization_entry(fold.normalization()),
            "metrics": {"samples": fold.samples},
        }
        return Payload(meta, state.params, state.mask)

    def late(self, task: Payload, result: Payload) -> Payload:
        return self.inner.late(task, result)

    def sum_stage(self, task: Payload) -> SumStage:
        if _measures(task):
            raise ConfigError("secure_aggregation does not sum inputs yet: raise data.public_fraction (0.01, say)")
        return self.inner.sum_stage(task)

    def measurable(self, stage: str) -> bool:
        return stage != STAGE and self.inner.measurable(stage)

    def members(self, state: Payload) -> tuple[str, ...] | None:
        return None if _measures(state) else self.inner.members(state)

    def addressed(self, state: Payload, device: str) -> dict[str, bytes]:
        return {} if _measures(state) else self.inner.addressed(state, device)

    def finished(self, state: Payload) -> bool:
        return not _measures(state) and self.inner.finished(state)

    def deployed(self, state: Payload) -> Payload:
        return self.inner.deployed(state)

    def more_than_updates(self) -> str:
        return "sums of the inputs in its first step; raise data.public_fraction (0.01, say)"

    def needs_public_data(self) -> str:
        return ""

    # -- what a task costs a device ------------------------------------------------------

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        return Cost(0.0, 0) if _measures(task) else self.inner.cost(task, samples, development)

    def needs_engine(self, task: Payload) -> bool:
        return not _measures(task) and self.inner.needs_engine(task)

    def step_settings(self, learning_rate: float, control: Control) -> StepSettings:
        return self.inner.step_settings(learning_rate, control)

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        return measured(task, data) if _measures(task) else self.inner.run(task, engine, data, control)


class InputFold:
    """Sums over all samples of all devices, exact in any order."""

    def __init__(self, channels: int) -> None:
        self.devices, self.samples = 0, 0
        self._values = 0  # of one channel
        self._scale: float | None = None
        self._sums = [Fraction(0)] * channels
        self._squares = [Fraction(0)] * channels

    def add(self, result: Payload) -> None:
        """One device's sums. Raises ``ResultError`` where they are none of so many values of the others' scale."""
        samples, values = checked_samples(result), integer(result, "values")
        scale = finite(result.meta.get("scale"), "scale")
        sums, squares = (self._list(result, name) for name in ("sums", "squares"))
        if values < samples or scale <= 0:
            raise ResultError(f"{values} values of {samples} samples, full scale {scale:g}")
        if self._scale not in (None, scale):
            raise ResultError(f"its full scale is {scale:g}, that of the others {self._scale:g}")
        for total, square in zip(sums, squares, strict=True):
            # Of real numbers the square of the sum is never more than so many times the sum of squares.
            if square < 0 or total * total > square * values * (1 + Fraction(1, 1 << 20)):
                raise ResultError("its sums of inputs and of their squares contradict each other")
        self.devices, self.samples, self._scale = self.devices + 1, self.samples + samples, scale
        self._values += values
        self._sums = [one + more for one, more in zip(self._sums, sums, strict=True)]
        self._squares = [one + more for one, more in zip(self._squares, squares, strict=True)]

    def normalization(self) -> Normalization:
        """Mean and deviation of each channel over all values."""
        means = [total / self._values for total in self._sums]
        variances = [square / self._values - mean * mean for square, mean in zip(self._squares, means, strict=True)]
        std = tuple(max(math.sqrt(max(0.0, float(variance))), LEAST_STD) for variance in variances)
        return Normalization(tuple(map(float, means)), std, self._scale or 1.0)

    def _list(self, result: Payload, name: str) -> list[Fraction]:
        found = result.meta.get(name)
        if not isinstance(found, list) or len(found) != len(self._sums):
            raise ResultError(f"{name} is no list of {len(self._sums)} sums")
        return [Fraction(finite(value, name)) for value in found]


def measured(task: Payload, data: DeviceData) -> Payload:
    """Sums of each channel's values and of their squares, in full scales, over all samples of a device."""
    parts = [part for part in (data.train, data.development) if len(part)]
    scale = parts[0].full_scale
    axes = (0, *range(2, parts[0].x.ndim))
    sums, squares, values = 0.0, 0.0, 0
    for part in parts:
        scaled = part.x.astype(np.float64) / scale
        sums, squares = sums + scaled.sum(axis=axes), squares + np.square(scaled).sum(axis=axes)
        values += scaled.size // scaled.shape[1]
    meta: dict[str, Json] = {
        "step": task.meta["step"],
        "samples": sum(map(len, parts)),
        "values": values,
        "scale": scale,
        "sums": np.asarray(sums).tolist(),
        "squares": np.asarray(squares).tolist(),
    }
    return Payload(meta)


def _measures(payload: Payload) -> bool:
    return payload.meta.get("stage") == STAGE
