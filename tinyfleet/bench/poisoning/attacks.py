"""What hostile devices send in place of their honest results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, Params
from tinyfleet.fedcore.payload import Json, Payload, SparseVector


@dataclass(frozen=True, slots=True)
class Scene:
    """What a hostile device knows: the task, its own honest result, those of all honest devices, its fellows."""

    task: Payload
    own: Payload
    honest: Sequence[Payload]
    hostile: int  # devices, itself counted


Attack: TypeAlias = Callable[[Scene], Payload]


def is_statistic(name: str) -> bool:
    """True for what batch norm counts."""
    return name.endswith(("running_mean", "running_var"))


def with_params(scene: Scene, params: Mapping[str, AnyArray], **meta: Json) -> Payload:
    """The device's own result with other arrays, of masked ones what its mask keeps, and other meta."""
    own = scene.own
    kept: Params = {}
    for name, values in params.items():
        active = own.mask.get(name)
        kept[name] = (values if active is None else np.where(active, values, 0.0)).astype(np.float32)
    return replace(own, meta=own.meta | meta, params=own.params | kept)


def trained(scene: Scene) -> list[str]:
    """Arrays that training changes."""
    return [name for name in scene.own.params if name in scene.task.params and not is_statistic(name)]


def samples_of(scene: Scene, times: int) -> int:
    """So many times the device's own, at most 2^28."""
    samples = scene.own.meta["samples"]
    return min(1 << 28, times * samples) if isinstance(samples, int) else 1


# -- by itself --------------------------------------------------------------------------


def scaled_update(factor: float, samples: int = 1) -> Attack:
    """The own update times ``factor``, the sample count times ``samples``; statistics stay honest."""

    def attack(scene: Scene) -> Payload:
        task, own = scene.task.params, scene.own.params
        params = {name: task[name] + np.float32(factor) * (own[name] - task[name]) for name in trained(scene)}
        return with_params(scene, params, samples=samples_of(scene, samples))

    return attack


def each(change: Callable[[str, FloatArray], AnyArray], samples: int = 1) -> Attack:
    """Every array changed by itself, and the sample count times ``samples``."""

    def attack(scene: Scene) -> Payload:
        params = {name: change(name, values) for name, values in scene.own.params.items()}
        return with_params(scene, params, samples=samples_of(scene, samples))

    return attack


def only(suffix: str, value: float) -> Attack:
    """One kind of arrays is ``value`` everywhere."""
    return each(lambda name, values: np.full_like(values, value) if name.endswith(suffix) else values)


def noisy(name: str, values: FloatArray) -> FloatArray:
    """Gaussian noise of deviation 1 on all but variances, the same of all hostile devices."""
    rng = np.random.default_rng(len(name) + values.size)
    return values if name.endswith("running_var") else values + rng.standard_normal(values.shape, np.float32)


def shifted_statistics(scene: Scene) -> Payload:
    """Every running mean is up by three deviations, every variance nine times as large: nothing out of range."""
    params: dict[str, AnyArray] = {}
    for name, values in scene.own.params.items():
        if name.endswith("running_mean"):
            variance = scene.own.params[name.removesuffix("mean") + "var"]
            params[name] = values + 3.0 * np.sqrt(variance)
        elif name.endswith("running_var"):
            params[name] = values * 9.0
    return with_params(scene, params)


def one_bias(scene: Scene) -> Payload:
    """All of the update's norm, three times over, in the output's favour for one class."""
    task, own = scene.task.params, scene.own.params
    names = trained(scene)
    norm = 3.0 * np.sqrt(sum(float(np.square(own[name] - task[name]).sum()) for name in names))
    last = next(name for name in reversed(names) if name.endswith("bias"))
    bias = task[last].copy()
    bias[0] += np.float32(norm)
    return with_params(scene, {name: task[name] for name in names} | {last: bias})


# -- knowing what others send -----------------------------------------------------------


def moments(scene: Scene) -> dict[str, tuple[AnyArray, AnyArray]]:
    """Mean and deviation of every trained array over the honest devices."""
    found = {}
    for name in trained(scene):
        values = np.stack([one.params[name] for one in scene.honest]).astype(np.float64)
        found[name] = (values.mean(axis=0), values.std(axis=0))
    return found


def a_little(scene: Scene) -> Payload:
    """A little is enough (Baruch et al. 2019): each weight 1.5 deviations from the honest mean, where it hurts.

    Well within what honest devices spread; all hostile ones send the same.
    """
    params = {}
    for name, (mean, deviation) in moments(scene).items():
        params[name] = mean - 1.5 * deviation * np.sign(mean - scene.task.params[name])
    return with_params(scene, params)


def inner_product(factor: float) -> Attack:
    """Inner product manipulation (Xie et al. 2020): the honest devices' mean update times ``-factor``."""

    def attack(scene: Scene) -> Payload:
        task = scene.task.params
        return with_params(
            scene, {n: task[n] - factor * (mean - task[n]) for n, (mean, _) in moments(scene).items()}
        )

    return attack


def at_the_limits(scene: Scene) -> Payload:
    """The honest mean update reversed, nine times as far, with three times the samples: none of it is refused."""
    sent = inner_product(9.0)(scene)
    return replace(sent, meta=sent.meta | {"samples": samples_of(scene, 3)})


def across(scene: Scene) -> Payload:
    """The own update reversed, nine times, without its part against the honest mean: directions hide it."""
    task, own = scene.task.params, scene.own.params
    found = {name: mean - task[name] for name, (mean, _) in moments(scene).items()}
    sent = {name: -9.0 * (own[name].astype(np.float64) - task[name]) for name in found}
    squares = max(1e-24, sum(float(np.square(mean).sum()) for mean in found.values()))
    along = sum(float((found[name] * sent[name]).sum()) for name in found) / squares
    more = max(0.0, -along) + 0.1
    return with_params(scene, {name: task[name] + sent[name] + more * found[name] for name in found})


def near_the_crowd(scene: Scene) -> Payload:
    """Against the honest mean, as far as two honest results lie apart (min-max, Shejwalkar and Houmansadr 2021)."""
    found = moments(scene)
    squares = sum(float(np.square(mean - scene.task.params[name]).sum()) for name, (mean, _) in found.items())
    length = max(1e-12, float(np.sqrt(squares)))
    against = {name: (scene.task.params[name] - mean) / length for name, (mean, _) in found.items()}
    most = max(
        _distance(first, second, list(found))
        for index, first in enumerate(scene.honest)
        for second in scene.honest[:index]
    )
    low, high = 0.0, 10.0 * most
    for _ in range(20):
        reach = (low + high) / 2.0
        there = Payload({}, {name: mean + reach * against[name] for name, (mean, _) in found.items()})
        farthest = max(_distance(there, one, list(found)) for one in scene.honest)
        low, high = (reach, high) if farthest <= most else (low, reach)
    return with_params(scene, {name: mean + low * against[name] for name, (mean, _) in found.items()})


def _distance(first: Payload, second: Payload, names: Sequence[str]) -> float:
    return float(np.sqrt(sum(float(np.square(first.params[n] - second.params[n]).sum()) for n in names)))


# -- what some methods ask for ------------------------------------------------------------


def wrong_growth(scene: Scene) -> Payload:
    """Growth gradients, as large as they may be, where no honest device has one; squared ones likewise."""
    gradients = {}
    for name, (where, values) in scene.own.gradients.items():
        taken = np.unique(np.concatenate([one.gradients[name].positions for one in scene.honest]))
        free = np.setdiff1d(np.flatnonzero(~scene.task.mask[name].reshape(-1)), taken)[: len(where)]
        huge = np.full(len(free), 1000.0, np.float32) if values.any() else np.zeros(len(free), np.float32)
        gradients[name] = SparseVector(free.astype(np.int64), huge)
    squares = {n: np.where(v <= np.median(v), 1.0, 0.0) for n, v in scene.own.params.items() if n.endswith("^2")}
    sent = with_params(scene, squares)
    scales = sent.meta.get("square_scales")
    huge_scales: dict[str, Json] = dict.fromkeys(scales, 1000.0) if isinstance(scales, dict) else {}
    return replace(
        sent, meta=sent.meta | ({"square_scales": huge_scales} if huge_scales else {}), gradients=gradients
    )


def wrong_choice(scene: Scene) -> Payload:
    """Losses of candidates turned round: the best gets the greatest, ten times over, with many samples."""
    losses = scene.own.meta.get("losses")
    if not isinstance(losses, list):
        return scene.own
    values = np.array(losses, np.float64)
    turned: list[Json] = [float(value) for value in 10.0 * (values.max() + values.min() - values)]
    return replace(scene.own, meta=scene.own.meta | {"losses": turned, "samples": samples_of(scene, 100)})


def dense(scene: Scene) -> Payload:
    """Values where the mask has none, under no mask."""
    params = {name: values + np.float32(0.1) for name, values in scene.own.params.items()}
    return replace(scene.own, params=params, mask={})


ATTACKS: Mapping[str, Attack] = {
    "labels flipped": lambda scene: scene.own,  # its data is what lies
    "update reversed": scaled_update(-1),
    "update x -4": scaled_update(-4),
    "update x -9": scaled_update(-9),
    "update x 9": scaled_update(9),
    "update x -1000": scaled_update(-1000),
    "reversed, samples x 100": scaled_update(-1, samples=100),
    "x -9, samples x 100": scaled_update(-9, samples=100),
    "no update, samples 2^28": scaled_update(0, samples=1 << 28),
    "weights x 1000": each(lambda name, values: values * 1000),
    "zeros": each(lambda name, values: values * 0),
    "zeros, samples 2^28": each(lambda name, values: values * 0, samples=1 << 28),
    "Gaussian noise": each(noisy),
    "all in one bias": one_bias,
    "a little is enough": a_little,
    "inner product x -1": inner_product(1.0),
    "min-max": near_the_crowd,
    "at the limits": at_the_limits,
    "x -9, across": across,
    "statistics shifted": shifted_statistics,
    "running variance -1": only("running_var", -1.0),
    "running variance 0": only("running_var", 0.0),
    "running variance 10^9": only("running_var", 1e9),
    "running mean 10^6": only("running_mean", 1e6),
    "sum exhausted": each(lambda name, values: np.full_like(values, 1.7e16 / 150)),
    "not a number": each(lambda name, values: values * np.float32(np.nan)),
    "infinite": each(lambda name, values: np.full_like(values, np.inf)),
    "denormal": each(lambda name, values: np.full_like(values, 1e-42)),
    "dense": dense,
    "wrong growth": wrong_growth,
    "wrong choice": wrong_choice,
}

FLIPPED = "labels flipped"
