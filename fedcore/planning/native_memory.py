"""What a step of the native engine takes. Memory is no estimate: the engine itself plans it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tinyfleet.fedcore.accounting import VALUE, pruned_values
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.planning.features import Features
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.engine_facts import NO_KERNEL_CHOICE
from tinyfleet.fedcore.training.native.facts import NATIVE

POSITION = 8  # bytes
FORWARD_AND_BACKWARD = 3  # convolutions of a layer: itself, and two gradients
MOST_AGAIN = 2  # the ``recompute`` with which nearly all of them are done once more


class NativeSteps:
    """Steps of one model with so many active weights (by weight name; all, where one is not named).

    ``kernel_choice`` as in ``NativeEngine``. Holds what the weights take until it goes. Raises ``ConfigError``
    where the engine is not installed.
    """

    def __init__(
        self,
        graph: Graph,
        active: Mapping[str, int],
        threads: int = 1,
        kernel_choice: Mapping[str, float] = NO_KERNEL_CHOICE,
    ) -> None:
        if fault := NATIVE.fault():
            raise ConfigError(f"engine {NATIVE.name!r} {fault}, and its plans with it; plan for another engine")
        from sparse_engine.kernels.kernel_choice import dense_from
        from sparse_engine.planning import Plan
        from tinyfleet.fedcore.training.native.model import model_of

        self._graph = graph
        self._weighted = graph.weighted
        self._active = {
            node.name: active.get(node.weight, graph.params[node.weight].size) for node in self._weighted
        }
        self._masks = sum(graph.params[name].size for name in active)
        self._threads = threads
        model = model_of(graph)
        self._plan = Plan(model, self._active, threads, dense_from=dense_from(model, kernel_choice))

    def features(self, batch: int, settings: StepSettings, rest: int = 0) -> Features:
        """Of a step of ``batch`` samples, where an epoch's last one has ``rest`` (0: as many)."""
        passes = settings.levers.passes(batch)
        return Features(
            model=float(self._plan.weight_bytes() + self._others() + self._optimiser(settings)),
            replayed=float(self.step_bytes(max(batch, rest), settings)),
            layer=0.0,
            passes=float(passes * len(self._weighted)),
            gflop=self._gflop(settings) * batch,
            values=sum(math.prod(shape) for shape in self._graph.shapes.values()) * batch / 1e6,
            pruned=self._pruned(settings) * batch / 1e6,
            weights=passes * sum(self._active.values()) / 1e6,
            normalised=0.0,  # of active weights alone: too little to be told
        )

    def step_bytes(self, batch: int, settings: StepSettings) -> int:
        """The arena of the largest pass of so many samples."""
        from tinyfleet.fedcore.training.native.model import step_of

        return self._plan.arena_bytes(max(_sizes(batch, settings)), step_of(settings))

    def evaluation_bytes(self) -> int:
        """The arena of predictions, as the engine makes them."""
        from sparse_engine import LANES

        return self._plan.evaluation_bytes(LANES * self._threads)

    def growth_bytes(self, batch: int, settings: StepSettings) -> int:
        """What the search for the largest gradients of pruned weights holds above the loaded model."""
        from tinyfleet.fedcore.training.native.engine import SUM_VALUES, TILE_VALUES

        tiles = TILE_VALUES * (1 + self._threads)
        sums = SUM_VALUES if settings.levers.passes(batch) > 1 else 0
        images = 2 * batch * math.prod(self._graph.input_shape)
        return self.step_bytes(batch, settings) + VALUE * (tiles + sums + images)

    def result_bytes(self) -> int:
        """The dense arrays that a task hands back; the arena has gone by then. One layer's are made at a time."""
        made = (VALUE + POSITION) * max(self._active.values())
        return VALUE * sum(spec.size for spec in self._graph.params.values()) + made

    def _others(self) -> int:
        """Masks as bytes; arrays that are no weights, with momentum and gradients."""
        weights = {node.weight for node in self._weighted}
        return self._masks + 3 * VALUE * sum(
            spec.size for name, spec in self._graph.params.items() if name not in weights
        )

    def _optimiser(self, settings: StepSettings) -> int:
        """What ``LocalOptimiser`` holds, and the copies that it works on: of plain SGD the engine's own is all."""
        if not settings.beyond_sgd:
            return 0
        weights = sum(self._active.values())
        dense = sum(self._graph.params[node.weight].size for node in self._weighted)
        others = self._graph.parameter_count() - dense
        # Value and gradient are copied out and in, positions besides.
        return VALUE * (settings.held_arrays + 2) * (weights + others) + POSITION * weights

    def _gflop(self, settings: StepSettings) -> float:
        """Of one sample."""
        forward = sum(2 * self._graph.multiply_adds(node, self._active[node.name]) for node in self._weighted)
        again = 1 if settings.levers.recompute == MOST_AGAIN else 0
        return (FORWARD_AND_BACKWARD + again) * forward / 1e9

    def _pruned(self, settings: StepSettings) -> int:
        return pruned_values(self._graph, norms=settings.pruned_norm) if settings.levers.lossy else 0


def _sizes(batch: int, settings: StepSettings) -> set[int]:
    """Samples of a step's passes."""
    passes = settings.levers.passes(batch)
    return {batch // passes, -(-batch // passes)}
