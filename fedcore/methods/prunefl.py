"""PruneFL (Jiang et al., TNNLS 2022, arXiv 1909.12326): the mask follows squared gradients per time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.accounting import VALUE, Cost, gradient_flops
from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData, Normalization, batches
from tinyfleet.fedcore.errors import ConfigError, DataError
from tinyfleet.fedcore.methods.fedavg import FedAvg
from tinyfleet.fedcore.methods.method import Control, Fold, Problem, device_seed, normalization_of
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.methods.parts.local import all_samples
from tinyfleet.fedcore.methods.parts.reconfiguration import SCALES, SquaresFold, mean_squares, packed, reconfigured
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.run_spec import Fraction, Positive, Settings
from tinyfleet.fedcore.sparsity.mask import apply_mask, density
from tinyfleet.fedcore.training.engine import Engine


class PruneFlSettings(Settings, frozen=True):
    """PruneFL's hyper-parameters, with the paper's values where it gives them."""

    name: Literal["prunefl"] = "prunefl"
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05  # at most: the paper lets the size float
    interval: Positive = 50  # rounds between reconfigurations
    initial_iterations: Positive = 5  # of training and reconfiguration before the first round
    # Share of a layer's active weights, the largest, that a reconfiguration keeps: 1 - 0.3 in the authors' code.
    protected: Fraction = 0.7
    gradient_batches: Positive = 10  # behind one reconfiguration's squares, at most; of every device
    pretrained: bool = True


class PruneFl(FedAvg):
    """FedAvg whose mask is chosen anew every ``interval`` rounds from gradients of ALL weights.

    Every reconfiguration costs devices dense gradients, in memory and on the wire: what FedTiny avoids."""

    name = "prunefl"
    settings_type: ClassVar[type[Settings]] = PruneFlSettings

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        if not problem.graph.maskable:
            raise ConfigError(f"model {problem.graph.name} has no maskable layer to prune")

    # -- coordinator half ---------------------------------------------------------------

    def needs_public_data(self) -> str:
        return "prunes on public data: choose feddst"

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """Initial pruning on public data: the coordinator stands for the one device that the paper selects.

        Each iteration trains on some batches, squares their gradients and reconfigures, from dense on.
        Raises ``DataError`` without public data.
        """
        if not len(public):
            raise DataError("there is no public data to prune on; raise data.public_fraction (0.1, say)")
        state = super().initial_state(engine, public)
        graph, normalization = self.problem.graph, normalization_of(state)
        rng = np.random.default_rng([self.problem.seed, 5])
        params, mask = state.params, state.mask
        for _ in range(self.settings.initial_iterations):
            engine.load(graph, params, mask)
            squares = mean_squares(engine, graph, self._trained_batches(engine, public, normalization, rng))
            params = engine.params()
            mask = self._reconfigured(squares, params, mask)
            apply_mask(params, mask)
        return Payload(state.meta, params, mask)

    def _trained_batches(
        self, engine: Engine, public: Dataset, normalization: Normalization, rng: np.random.Generator
    ) -> Iterator[tuple[FloatArray, IntArray]]:
        """Batches, each trained on after its reader is done with it."""
        settings = self.step_settings(self.problem.training.learning_rate, Control())
        shuffled = batches(public, self.problem.training.batch, normalization, rng)
        for x, y in islice(shuffled, self.settings.gradient_batches):
            yield x, y
            engine.train_step(x, y, settings)

    def _reconfigured(self, squares: Params, params: Params, mask: Mask) -> Mask:
        s = self.settings
        return reconfigured(self.problem.graph, squares, params, mask, s.density, s.protected)

    def more_than_updates(self) -> str:
        if self.settings.interval >= self.problem.training.rounds:
            return super().more_than_updates()
        return "they hold the squared gradients of all weights; set method.interval to training.rounds"

    def reconfigures(self, state: Payload) -> bool:
        """Whether the coming round ends with a reconfiguration."""
        round_index = integer(state, "round")
        return bool(round_index > 0 and round_index % self.settings.interval == 0)

    def configure_round(self, state: Payload) -> Payload:
        task = super().configure_round(state)
        task.meta["reconfigure"] = self.reconfigures(state)
        return task

    def begin_fold(self, state: Payload) -> Fold:
        if self.reconfigures(state):
            return SquaresFold(self.problem.graph, state.mask)
        return super().begin_fold(state)

    def late(self, task: Payload, result: Payload) -> Payload:
        """Its weights; squares of another mask count as zero."""
        own = super().late(task, result)
        if not task.meta.get("reconfigure"):
            return own
        flat, scales = packed({n: np.zeros(s, np.float32) for n, s in self.problem.graph.maskable_shapes.items()})
        meta: dict[str, Json] = own.meta | {SCALES: scales}
        return Payload(meta, own.params | flat, own.mask)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        after = super().finish_round(state, fold)
        if isinstance(fold, SquaresFold):
            mask = self._reconfigured(fold.squares(), after.params, state.mask)
            apply_mask(after.params, mask)  # what newly appears was masked so far: it starts at 0
            after.mask = mask
            metrics: Any = after.meta["metrics"]
            metrics["density"] = density(mask)
        return after

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        own = super().cost(task, samples, development)
        if not task.meta.get("reconfigure"):
            return own
        graph, training = self.problem.graph, self.problem.training
        seen = min(samples, self.settings.gradient_batches * training.batch)
        flops = own.flops + gradient_flops(graph, task.mask, graph.maskable, seen)
        # A batch's gradient and the sum of squares, dense in every maskable layer.
        extra = 2 * VALUE * sum(graph.params[name].size for name in graph.maskable)
        return Cost(flops, self.training_memory(task.mask, extra))

    # -- device half --------------------------------------------------------------------

    def run(self, task: Payload, engine: Engine, data: DeviceData, control: Control) -> Payload:
        """Train; where the task asks for it, square the trained model's gradients on the device's batches."""
        result = super().run(task, engine, data, control)
        if not task.meta.get("reconfigure"):
            return result
        rng = device_seed(self.problem.seed, task, data.name)
        shuffled = batches(all_samples(data), self.problem.training.batch, normalization_of(task), rng)
        part = islice(shuffled, self.settings.gradient_batches)
        squares = mean_squares(engine, self.problem.graph, part, control.levers.micro_batch)
        flat, scales = packed(squares)
        meta: dict[str, Json] = result.meta | {SCALES: scales}
        return Payload(meta, result.params | flat, result.mask)
