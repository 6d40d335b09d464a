"""Ways of an engine that plans its own memory, and what they take."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.planning.cost_model import CostModel
from tinyfleet.fedcore.planning.method_steps import KEEPS, has_batch_norm, held_bytes, passes_of, settings_under
from tinyfleet.fedcore.planning.native_memory import NativeSteps
from tinyfleet.fedcore.planning.plan import Forecast, Way
from tinyfleet.fedcore.training.levers import Levers

LANES = 16  # images that the native engine computes at once: passes of fewer are slower


def forecasts(
    method: Method,
    cost_model: CostModel,
    samples: int,
    factor: float,
    growing: Collection[str],
    active: Mapping[str, int],
    threads: int,
) -> Iterator[Forecast]:
    """Of all ways, the gentlest first: the arena is as large as the largest of what happens in it."""
    steps = NativeSteps(method.problem.graph, active, threads, cost_model.kernel_choice)
    batch = method.problem.training.batch
    growth_batch = getattr(method.settings, "growth_batch", 0) or batch
    rest = samples % batch
    if rest == 1 and samples > batch:
        rest = batch + 1  # a last sample joins the batch before it
    least = max(steps.evaluation_bytes(), steps.result_bytes())
    for way in native_ways(method):
        settings = settings_under(method, way.levers)
        features = steps.features(batch, settings, rest)
        growth = steps.growth_bytes(growth_batch, settings) if growing else 0
        replayed = float(max(features.replayed, growth, least))
        peak = cost_model.peak_bytes(features._replace(replayed=replayed)) + held_bytes(method, samples)
        yield Forecast(way, int(peak * factor), cost_model.step_seconds(features))


def native_ways(method: Method) -> Iterator[Way]:
    """Ways to run a step, gentlest first. To compute activations again changes no result, while smaller passes
    change batch norm's statistics; without batch norm they are the cheaper ones.
    """
    sizes = passes_of(method)
    yield Way()
    if has_batch_norm(method):
        yield Way(Levers(recompute=1))
    else:
        yield from (Way(Levers(size)) for size in sizes if size >= LANES)
    yield from (Way(Levers(size, recompute=2)) for size in sizes)
    yield from (Way(Levers(sizes[-1], keep, "fp16", recompute=2)) for keep in KEEPS)
