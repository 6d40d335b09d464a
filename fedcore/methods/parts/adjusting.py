"""Federated training whose mask is adjusted every dR rounds: what FedTiny and FedMef share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.accounting import Cost, training_flops
from tinyfleet.fedcore.arrays import FloatArray, IntArray
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.method import Control, Fold, Problem, device_seed, normalization_of
from tinyfleet.fedcore.methods.parts import progressive
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.methods.parts.extrusion import extrude, marked_weights
from tinyfleet.fedcore.methods.parts.growing import Growing, growth_counts
from tinyfleet.fedcore.methods.parts.local import LocalResult, all_samples
from tinyfleet.fedcore.methods.parts.progressive import Granularity, Order
from tinyfleet.fedcore.methods.parts.training_aggregate import TrainFold
from tinyfleet.fedcore.methods.summing.stages import TrainStage
from tinyfleet.fedcore.methods.summing.summands import SumStage
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Count, Positive, Settings
from tinyfleet.fedcore.sparsity.schedule import is_adjustment_round
from tinyfleet.fedcore.training.engine import Engine


class AdjustmentSettings(Settings, frozen=True):
    """When and how the mask is adjusted, and whether the weights to go are extruded before."""

    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    # Progressive pruning.
    progressive: bool = True
    granularity: Granularity = "block"
    order: Order = "backward"
    interval: Positive = 10  # dR
    stop: Count = 100  # R_stop
    growth_batch: Count = 0  # samples behind a device's growth gradients; 0: its last mini-batch (the paper)
    scale: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.15  # of the cosine schedule: the first adjusts 2 scale a_l
    # Power of the channels' strength in the scores; above 0 weak channels empty, and compaction removes them.
    channel_exponent: Annotated[float, Meta(ge=0.0, le=4.0)] = 0.0
    # Budget-aware extrusion.
    extrusion: bool = False
    extrusion_steps: Count = 0  # T; 0: the steps of one local round
    extrusion_strength: Annotated[float, Meta(ge=0.0)] = 1e-3  # lambda


class Adjusting(Growing):
    """Sparse FedAvg with growth and pruning in adjustment rounds; what mask it starts from is a subclass's."""

    settings_type: ClassVar[type[Settings]] = AdjustmentSettings

    def __init__(self, settings: Any, problem: Problem) -> None:
        super().__init__(settings, problem)
        if not problem.graph.maskable:
            raise ConfigError(f"model {problem.graph.name} has no maskable layer to prune")
        self.groups = progressive.groups(problem.graph, settings.granularity, settings.order)

    # -- coordinator half ---------------------------------------------------------------

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        state = super().initial_state(engine, public)
        state.meta["adjustments"] = 0
        return state

    def adjustment(self, state: Payload) -> dict[str, int]:
        """q_l of this round's group, empty between adjustments.

        Groups rotate by the adjustment counter; the cosine's clock is the round.
        """
        s, round_index = self.settings, integer(state, "round")
        if not s.progressive or not is_adjustment_round(round_index, s.interval, s.stop):
            return {}
        group = self.groups[integer(state, "adjustments") % len(self.groups)]
        return progressive.adjustment_counts(state.mask, group, round_index, s.stop, s.scale)

    def more_than_updates(self) -> str:
        s = self.settings
        rounds = range(self.problem.training.rounds)
        if not s.progressive or not any(is_adjustment_round(r, s.interval, s.stop) for r in rounds):
            return super().more_than_updates()
        return "they name the pruned weights with the largest gradients; set method.progressive = false"

    def begin_fold(self, state: Payload) -> Fold:
        return TrainFold(self.problem.graph, state.mask, self.adjustment(state))

    def sum_stage(self, task: Payload) -> SumStage:
        return TrainStage(self.problem.graph, task, growth_counts(task), self.precision)

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        after = super().finish_round(state, fold)
        counts = self.adjustment(state)
        if counts:
            exponent = self.settings.channel_exponent
            after.params, after.mask = progressive.adjust(
                after.params, after.mask, fold.gradients(), counts, exponent
            )
            after.meta["adjustments"] = integer(state, "adjustments") + 1
        return after

    def cost(self, task: Payload, samples: int, development: int) -> Cost:
        own = super().cost(task, samples, development)
        if not growth_counts(task) or not self.settings.extrusion:
            return own
        training = self.problem.training
        extra = self.settings.extrusion_steps * training.batch - training.local_epochs * samples
        return own._replace(flops=own.flops + training_flops(self.problem.graph, task.mask, max(0, extra)))

    def growth_samples(self, samples: int) -> int:
        return min(samples, self.settings.growth_batch or self.problem.training.batch)

    # -- device half --------------------------------------------------------------------

    def train(
        self, task: Payload, engine: Engine, data: Dataset, rng: np.random.Generator, control: Control
    ) -> LocalResult:
        """The local epochs; before an adjustment with the weights that are to go drawn towards zero."""
        counts = growth_counts(task)
        if not counts or not self.settings.extrusion:
            return super().train(task, engine, data, rng, control)
        return extrude(
            self.local_round(task, engine, data, rng, control),
            marked_weights(task.params, task.mask, counts),
            strength=self.settings.extrusion_strength,
            budget=self.settings.extrusion_steps,
        )

    def growth_batch(self, task: Payload, data: DeviceData, local: LocalResult) -> tuple[FloatArray, IntArray]:
        if not self.settings.growth_batch:
            return super().growth_batch(task, data, local)
        own = all_samples(data)
        chosen = device_seed(self.problem.seed, task, data.name).permutation(len(own))
        part = own.take(chosen[: self.settings.growth_batch])
        return normalization_of(task)(part.x), part.y
