"""Does a task fit a board, and how? Exact levers first, lossy ones after (scaled activation pruning)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tinyfleet.fedcore.accounting import VALUE
from tinyfleet.fedcore.datasets.dataset import batch_count
from tinyfleet.fedcore.methods.method import Control, Method
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node
from tinyfleet.fedcore.planning.cost_model import NATIVE, Calibration, features_of
from tinyfleet.fedcore.planning.features import Features
from tinyfleet.fedcore.planning.levers import Forecast, Levers
from tinyfleet.fedcore.planning.native_memory import NativeSteps
from tinyfleet.fedcore.planning.torch_memory import StepShape, step_bytes
from tinyfleet.fedcore.sparsity.allocation import erk_counts
from tinyfleet.fedcore.training.engine import StepSettings

KEEPS = (0.5, 0.3, 0.2)  # lossy steps, from mild to hard; what is kept is kept in half precision
LEAST_NORM_BATCH = 4  # samples a pass that batch norm's statistics still mean something over
LANES = 16  # images that the native engine computes at once: passes of fewer are slower
MARGIN = 1.05  # over the prediction: its error on a calibrated board
LABEL_BYTES = 8
# What a worker holds besides the engine and the model that probes see: protocol, codecs, methods. 6 to 10 MB.
WORKER_BYTES = 8_000_000
# A heap that keeps what is freed takes more than is in use, as tensors of many sizes leave holes. Measured on
# steps of all models: up to so many bytes more, and so many times the step's tensors; the second where caches
# are pruned, in chunks.
ROOMY_BYTES = 25_000_000
ROOMY, ROOMY_PRUNED = 1.6, 3.2


@dataclass(frozen=True, slots=True)
class FitPlan:
    """The first way that fits, or the smallest that there is and what it lacks."""

    ways: tuple[Forecast, ...]
    rung: int  # of the ladder
    limit_bytes: int
    steps: int  # of one round

    @property
    def forecast(self) -> Forecast:
        return self.ways[self.rung]

    @property
    def levers(self) -> Levers:
        return self.forecast.levers

    @property
    def round_seconds(self) -> float:
        return self.steps * self.forecast.step_seconds

    @property
    def fits(self) -> bool:
        return self.forecast.peak_bytes * MARGIN <= self.limit_bytes

    @property
    def missing_bytes(self) -> int:
        """What the limit would have to rise by."""
        return max(0, int(self.forecast.peak_bytes * MARGIN) - self.limit_bytes)


def plan(
    method: Method,
    calibration: Calibration,
    limit_bytes: int,
    samples: int,
    *,
    rung: int = 0,
    factor: float = 1.0,
    growing: Collection[str] | None = None,
    active: Mapping[str, int] | None = None,
    threads: int = 1,
) -> FitPlan:
    """The gentlest way to run ``method``'s training task under ``limit_bytes`` with so many local samples.

    Ways before ``rung`` are known to be too much. ``factor``: measured by predicted peak of such tasks so far.
    ``growing``: the weights whose growth gradients the task wants; None: whichever it may want in some round.
    ``active``: how many weights are left, by name, for engines that save by it; None: as the density says.
    """
    if growing is None:
        growing = method.problem.graph.maskable if hasattr(method.settings, "growth_batch") else ()
    if calibration.engine == NATIVE:
        counts = _active(method) if active is None else active
        steps = NativeSteps(method.problem.graph, counts, threads, calibration.crossovers)
        ways = tuple(native_forecasts(method, calibration, steps, samples, factor, growing))
    else:
        ways = tuple(forecast(method, calibration, levers, samples, factor, growing) for levers in ladder(method))
    left = range(min(rung, len(ways) - 1), len(ways))
    chosen = next((index for index in left if ways[index].peak_bytes * MARGIN <= limit_bytes), None)
    if chosen is None:
        chosen = min(left, key=lambda index: ways[index].peak_bytes)
    training = method.problem.training
    return FitPlan(ways, chosen, limit_bytes, training.local_epochs * batch_count(samples, training.batch))


def tighter(ways: Sequence[Forecast], rung: int) -> int | None:
    """The next rung that takes less memory than ``rung``; None where it is the last."""
    less = (index for index in range(rung + 1, len(ways)) if ways[index].peak_bytes < ways[rung].peak_bytes)
    return next(less, None)


def ladder(method: Method) -> Iterator[Levers]:
    """Ways to run a step, gentlest first: freed memory given back, smaller passes with summed gradients, then
    pruned caches as well.

    Batch norm sees its statistics pass by pass: with it passes do not shrink below ``LEAST_NORM_BATCH``.
    """
    sizes = _sizes(method)
    yield Levers(0, roomy=True)
    for micro_batch in sizes:
        yield Levers(micro_batch)
    for keep in KEEPS:
        for micro_batch in sizes:
            yield Levers(micro_batch, keep, "fp16")


def native_ladder(method: Method) -> Iterator[Levers]:
    """The same for the native engine, which can compute activations again: that changes no result, while smaller
    passes change batch norm's statistics; without batch norm they are the cheaper ones.
    """
    sizes = _sizes(method)
    yield Levers(0)
    if _normed(method):
        yield Levers(0, recompute=1)
    else:
        yield from (Levers(size) for size in sizes if size >= LANES)
    yield from (Levers(size, recompute=2) for size in sizes)
    yield from (Levers(sizes[-1], keep, "fp16", recompute=2) for keep in KEEPS)


def _sizes(method: Method) -> list[int]:
    """Samples a pass, from the whole batch (0) down."""
    batch = method.problem.training.batch
    least = min(batch, LEAST_NORM_BATCH if _normed(method) else 1)
    sizes = [0]
    size = batch // 2
    while size >= least:
        sizes.append(size)
        size //= 2
    return sizes


def _normed(method: Method) -> bool:
    return bool(method.problem.graph.statistics)


def native_forecasts(
    method: Method,
    calibration: Calibration,
    steps: NativeSteps,
    samples: int,
    factor: float,
    growing: Collection[str],
) -> Iterator[Forecast]:
    """Of all ways of the native engine: the arena is as large as the largest of what happens in it."""
    batch = method.problem.training.batch
    growth_batch = getattr(method.settings, "growth_batch", 0) or batch
    rest = samples % batch
    if rest == 1 and samples > batch:
        rest = batch + 1  # a last sample joins the batch before it
    least = max(steps.evaluation_bytes(), steps.result_bytes())
    for levers in native_ladder(method):
        settings = settings_under(method, levers)
        features = steps.features(batch, settings, rest)
        growth = steps.growth_bytes(growth_batch, settings) if growing else 0
        replayed = float(max(features.replayed, growth, least))
        peak = calibration.peak_bytes(features._replace(replayed=replayed)) + held_bytes(method, samples)
        yield Forecast(levers, int(peak * factor), calibration.step_seconds(features))


def _active(method: Method) -> dict[str, int]:
    """Active weights of a method's tasks, as far as its settings tell."""
    density = getattr(method.settings, "density", None)
    return {} if density is None else erk_counts(method.problem.graph.maskable_shapes, density)


def forecast(
    method: Method,
    calibration: Calibration,
    levers: Levers,
    samples: int,
    factor: float = 1.0,
    growing: Collection[str] = (),
) -> Forecast:
    """Peak of the whole worker process, the device's own data included, and seconds of one step."""
    features = step_features(method, levers)
    if growing:
        replayed = max(features.replayed, growth_bytes(method, levers, growing))
        features = features._replace(replayed=float(replayed))
    peak = calibration.peak_bytes(features) + held_bytes(method, samples)
    if levers.roomy:
        pruned = settings_under(method, levers).keep < 1.0
        peak += ROOMY_BYTES + (ROOMY_PRUNED if pruned else ROOMY) * features.replayed
    return Forecast(levers, int(peak * factor), calibration.step_seconds(features))


def held_bytes(method: Method, samples: int) -> int:
    """What a worker holds all the while and a probe does not: its own code, the data, the task as it came."""
    graph, batch = method.problem.graph, method.problem.training.batch
    pixels = math.prod(graph.input_shape)
    data = 2 * samples * (pixels + LABEL_BYTES)  # uint8: the two parts, and both in one array
    task = sum(spec.size for spec in graph.params.values()) * VALUE
    return WORKER_BYTES + data + task + batch * pixels * VALUE  # a batch is normalised while the last one is held


def growth_bytes(method: Method, levers: Levers, growing: Collection[str]) -> int:
    """What the search for the largest gradients of pruned weights holds above the loaded model.

    In one pass no more than a training step of its batch. In several, one layer's inputs and gradients of
    the whole batch, and what the convolution reorders of them at a time.
    """
    settings, graph = settings_under(method, levers), method.problem.graph
    batch = getattr(method.settings, "growth_batch", 0) or method.problem.training.batch
    shape = replace(StepShape.of(settings, batch), accumulate=False)  # no sums of whole weights
    images = 2 * batch * math.prod(graph.input_shape) * VALUE
    layers = [_layer_values(graph, node) for node in graph.nodes if node.weight in growing]
    held = 0 if settings.passes(batch) == 1 else batch * VALUE * max(layers, default=0)
    return step_bytes(graph, shape) + images + held + held // 4


def _layer_values(graph: Graph, node: Node) -> int:
    """Values of one sample that go into this layer and come out of it."""
    sources = [graph.input_shape if name == INPUT else graph.shapes[name] for name in node.inputs]
    return sum(math.prod(shape) for shape in [*sources, graph.shapes[node.name]])


def step_features(method: Method, levers: Levers) -> Features:
    """Features of one training step under ``levers``."""
    problem, masked = method.problem, hasattr(method.settings, "density")
    return features_of(problem.graph, problem.training.batch, settings_under(method, levers), masked=masked)


def settings_under(method: Method, levers: Levers) -> StepSettings:
    """The method's steps as ``levers`` make them; the learning rate costs nothing."""
    control = Control()
    levers.apply(control)
    return method.step_settings(1.0, control)
