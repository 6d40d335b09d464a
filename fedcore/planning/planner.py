"""Does a task fit a board, and how? Exact levers first, lossy ones after (scaled activation pruning)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from tinyfleet.fedcore.datasets.dataset import batch_count
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.planning import native_plan, torch_plan
from tinyfleet.fedcore.planning.cost_model import CostModel
from tinyfleet.fedcore.planning.plan import MARGIN, Forecast, Plan
from tinyfleet.fedcore.sparsity.allocation import erk_counts
from tinyfleet.fedcore.training.engine_facts import MemoryModel
from tinyfleet.fedcore.training.registry import facts_of

Forecasts = Callable[[Method, CostModel, int, float, Collection[str], Mapping[str, int], int], Iterator[Forecast]]
"""Of a method under a cost model: samples, factor, growing, active and threads as ``plan_task`` has them."""

FORECASTS: Mapping[MemoryModel, Forecasts] = {
    MemoryModel.REPLAYED: torch_plan.forecasts,
    MemoryModel.ARENA: native_plan.forecasts,
}


def plan_task(
    method: Method,
    cost_model: CostModel,
    limit_bytes: int,
    samples: int,
    *,
    first_way: int = 0,
    factor: float = 1.0,
    growing: Collection[str] | None = None,
    active: Mapping[str, int] | None = None,
    threads: int = 1,
) -> Plan:
    """The gentlest way to run ``method``'s training task under ``limit_bytes`` with so many local samples.

    Ways before ``first_way`` are known to be too much. ``factor``: measured by predicted peak of such tasks so far.
    ``growing``: the weights whose growth gradients the task wants; None: whichever it may want in some round.
    ``active``: how many weights are left, by name, for engines that save by it; None: as the density says.
    """
    if growing is None:
        growing = method.problem.graph.maskable if hasattr(method.settings, "growth_batch") else ()
    facts = facts_of(cost_model.engine)
    counts = _active(method) if active is None else active
    found = FORECASTS[facts.memory_model](method, cost_model, samples, factor, growing, counts, threads)
    ways = tuple(way for way in found if facts.recomputes or not way.way.levers.recompute)
    left = range(min(first_way, len(ways) - 1), len(ways))
    chosen = next((index for index in left if ways[index].peak_bytes * MARGIN <= limit_bytes), None)
    if chosen is None:
        chosen = min(left, key=lambda index: ways[index].peak_bytes)
    training = method.problem.training
    return Plan(ways, chosen, limit_bytes, training.local_epochs * batch_count(samples, training.batch))


def _active(method: Method) -> dict[str, int]:
    """Active weights of a method's tasks, as far as its settings tell."""
    density = getattr(method.settings, "density", None)
    return {} if density is None else erk_counts(method.problem.graph.maskable_shapes, density)
