"""Ways of an engine whose tensors come from the heap one by one, and what they take."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from tinyfleet.fedcore.accounting import VALUE
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node
from tinyfleet.fedcore.planning.cost_model import CostModel, features_of
from tinyfleet.fedcore.planning.features import Features
from tinyfleet.fedcore.planning.method_steps import KEEPS, held_bytes, passes_of, settings_under
from tinyfleet.fedcore.planning.plan import Forecast, Way
from tinyfleet.fedcore.planning.torch_memory import StepShape, step_bytes
from tinyfleet.fedcore.training.levers import Levers

# A heap that keeps what is freed takes more than is in use, as tensors of many sizes leave holes. Measured on
# steps of all models: up to so many bytes more, and so many times the step's tensors; the second where caches
# are pruned, in chunks.
ROOMY_BYTES = 25_000_000
ROOMY, ROOMY_PRUNED = 1.6, 3.2


def forecasts(
    method: Method,
    cost_model: CostModel,
    samples: int,
    factor: float,
    growing: Collection[str],
    active: Mapping[str, int],
    threads: int,
) -> Iterator[Forecast]:
    """Of all ways, the gentlest first. What is active, and the threads, make no difference here."""
    return (forecast(method, cost_model, way, samples, factor, growing) for way in replayed_ways(method))


def replayed_ways(method: Method) -> Iterator[Way]:
    """Ways to run a step, gentlest first: freed memory given back, smaller passes with summed gradients, then
    pruned caches as well.

    Batch norm sees its statistics pass by pass: with it passes do not shrink below ``LEAST_NORM_BATCH``.
    """
    sizes = passes_of(method)
    yield Way(roomy=True)
    for micro_batch in sizes:
        yield Way(Levers(micro_batch))
    for keep in KEEPS:
        for micro_batch in sizes:
            yield Way(Levers(micro_batch, keep, "fp16"))


def forecast(
    method: Method,
    cost_model: CostModel,
    way: Way,
    samples: int,
    factor: float = 1.0,
    growing: Collection[str] = (),
) -> Forecast:
    """Peak of the whole worker process, the device's own data included, and seconds of one step."""
    features = step_features(method, way.levers)
    if growing:
        replayed = max(features.replayed, growth_bytes(method, way.levers, growing))
        features = features._replace(replayed=float(replayed))
    peak = cost_model.peak_bytes(features) + held_bytes(method, samples)
    if way.roomy:
        pruned = settings_under(method, way.levers).levers.lossy
        peak += ROOMY_BYTES + (ROOMY_PRUNED if pruned else ROOMY) * features.replayed
    return Forecast(way, int(peak * factor), cost_model.step_seconds(features))


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
    held = 0 if settings.levers.passes(batch) == 1 else batch * VALUE * max(layers, default=0)
    return step_bytes(graph, shape) + images + held + held // 4


def _layer_values(graph: Graph, node: Node) -> int:
    """Values of one sample that go into this layer and come out of it."""
    sources = [graph.input_shape if name == INPUT else graph.shapes[name] for name in node.inputs]
    return sum(math.prod(shape) for shape in [*sources, graph.shapes[node.name]])


def step_features(method: Method, levers: Levers) -> Features:
    """Features of one training step under ``levers``."""
    problem, masked = method.problem, hasattr(method.settings, "density")
    return features_of(problem.graph, problem.training.batch, settings_under(method, levers), masked=masked)
