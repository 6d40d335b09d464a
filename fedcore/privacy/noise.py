"""Clipped updates with noise: the coordinator's mean of a step, and a device's own result."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.errors import ResultError
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.models.params import Role
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.privacy.clipping import BITS, StepBase, Units
from tinyfleet.fedcore.privacy.discrete_gaussian import discrete_gaussian
from tinyfleet.fedcore.privacy.noise_key import NoiseStream
from tinyfleet.fedcore.protocol.codec import quantise
from tinyfleet.fedcore.run_spec import PrivacySettings

LEAST_VARIANCE = 0.1  # of the task's: noise must not take a variance below, batch norm divides by its root
NOT_TOLD = 0.0  # in place of a loss, which folds ask for


def reduced(result: Payload) -> Payload:
    """A result without all that is no update: every device weighs the same, no loss, no gradient."""
    meta: dict[str, Json] = {"step": result.meta.get("step"), "samples": 1, "loss": NOT_TOLD}
    return Payload(meta, result.params, result.mask)


def untold(state: Payload) -> Payload:
    """The state after a private step, without the loss that no device has told."""
    metrics = state.meta.get("metrics")
    if isinstance(metrics, dict):
        state.meta["metrics"] = {key: value for key, value in metrics.items() if key != "loss"}
    return state


# -- coordinator ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepPrivacy:
    """A private run's terms as its steps need them."""

    settings: PrivacySettings
    key: bytes = b""  # of the coordinator's noise; empty where each device adds its own

    @property
    def central(self) -> bool:
        return self.settings.mode == "central"


def noisy_mean(
    settings: PrivacySettings, key: bytes, method: Method, task: Payload, results: Iterable[Payload]
) -> Payload:
    """One result in place of all: the clipped updates' sum with noise, divided by their number.

    Updates are taken against the task as it travels. Raises ``ResultError`` where there is no result.
    """
    base = StepBase(quantise(task.params, method.problem.wire_precision), task.mask)
    total: Units = {}
    count = 0
    for result in results:
        update = base.clipped(result.params, settings.clip)
        total = {name: total[name] + units for name, units in update.items()} if total else update
        count += 1
    if not count:
        raise ResultError("no result was folded: there is no mean")
    noised = with_noise(settings, key, _context(task, total, count), total)
    params = sound(method, base.params, base.moved(noised, settings.clip, count))
    meta: dict[str, Json] = {"step": task.meta["step"], "samples": count, "loss": NOT_TOLD}
    return Payload(meta, params, task.mask)


# -- device -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DeviceNoise:
    """A device's secret of one run, and what it has released: ``release(step, digest)`` refuses a second update."""

    key: bytes
    release: Callable[[int, str], None] = lambda step, digest: None


def private_result(
    settings: PrivacySettings, method: Method, task: Payload, result: Payload, noise: DeviceNoise | None
) -> Payload:
    """What a device sends in place of ``result``: its clipped update, with ``noise`` where the run's is local.

    Raises ``ResultError`` where another update was released for this step already.
    """
    if settings.mode == "none":
        return result
    base = StepBase(task.params, task.mask)
    units = base.clipped(result.params, settings.clip)
    if settings.mode == "local":
        if noise is None:
            raise AssertionError("local privacy needs the device's own noise")
        context = _context(task, units, 1)
        noise.release(int(task.meta["step"]), hashlib.sha256(context).hexdigest())  # type: ignore[arg-type]
        units = with_noise(settings, noise.key, context, units)
    params = sound(method, base.params, base.moved(units, settings.clip))
    return Payload({"step": task.meta["step"], "samples": 1}, params, task.mask)


# -- both -------------------------------------------------------------------------------


def with_noise(settings: PrivacySettings, key: bytes, context: bytes, units: Units) -> Units:
    """``units`` plus discrete Gaussian noise of ``noise`` clips on every entry, made of ``key`` and ``context``."""
    stream = NoiseStream(key, context)
    deviation = max(1, math.ceil(settings.noise * 2**BITS))
    return {
        name: values + discrete_gaussian(deviation, values.size, stream) for name, values in sorted(units.items())
    }


def sound(method: Method, before: Params, values: Params) -> Params:
    """``values`` with variances that are ones: a function of what is released already."""
    specs = method.problem.graph.params
    for name in values:
        if specs[name].role is Role.RUNNING_VAR:
            values[name] = np.maximum(values[name], np.float32(LEAST_VARIANCE) * before[name])
    return values


def _context(task: Payload, units: Units, count: int) -> bytes:
    """What is noised: the step, the task's values and the exact sum. Another one of it gets independent noise."""
    found = hashlib.sha256(f"step {task.meta['step']}, {count} updates".encode())
    for name, values in sorted(units.items()):
        found.update(f"{name} {values.size} ".encode())
        found.update(values.astype("<i8").tobytes())
        found.update(task.params[name].astype("<f4").tobytes())
    return found.digest()
