"""The method of tinyfleet itself: a gradually pruned start, then rounds like those of FedMef on the boards."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from tinyfleet.fedcore.arrays import FloatArray, Mask
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.methods.fedavg import random_start
from tinyfleet.fedcore.methods.method import Control, normalization_of
from tinyfleet.fedcore.methods.parts.adjusting import Adjusting, AdjustmentSettings
from tinyfleet.fedcore.methods.parts.checks import integer
from tinyfleet.fedcore.methods.parts.gradual import Ranking, prune_gradually
from tinyfleet.fedcore.methods.parts.progressive import Granularity
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Count
from tinyfleet.fedcore.sparsity.allocation import ALLOCATIONS
from tinyfleet.fedcore.sparsity.lamp import lamp_mask
from tinyfleet.fedcore.sparsity.mask import apply_mask, density, magnitude_mask
from tinyfleet.fedcore.training.engine import Engine, StepSettings


class TinyFleetSettings(AdjustmentSettings, frozen=True):
    """Settings of the default method."""

    name: Literal["tinyfleet"] = "tinyfleet"
    pretrained: bool = True
    pruning_epochs: Count = 0  # of gradual pruning on public data; 0: three times those of pre-training
    # Without public data: density of the random mask that a run starts from; 0: four times the run's.
    start_density: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    # Without public data: share of the rounds in which that mask narrows to the run's density.
    narrowing: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5
    allocation: Literal["lamp", "erk", "uniform"] = "lamp"  # how the density is shared among layers
    granularity: Granularity = "entire"
    scale: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.05  # a good mask is adjusted gently
    extrusion: bool = True
    # Scaled activation pruning: share of each layer's input cached for its weight gradient; 1 is exact.
    activation_keep: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.3
    cache: Literal["fp32", "fp16"] = "fp16"  # precision of that share
    norms: bool = True  # prune the caches of batch norms as well


START = "start_density"  # in the meta of a state that began without public data
START_WIDER = 4.0


class TinyFleet(Adjusting):
    """The coordinator prunes a pre-trained model step by step on public data; devices train and adjust it."""

    name = "tinyfleet"
    settings_type = TinyFleetSettings

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        state = super().initial_state(engine, public)
        s, training = self.settings, self.problem.training
        if not len(public):
            return self._started_random(state)
        state.params, state.mask = prune_gradually(
            engine,
            public,
            self.problem,
            normalization_of(state),
            state.params,
            s.density,
            s.pruning_epochs or 3 * training.pretrain_epochs,
            ranking(s.allocation),
            s.channel_exponent,
        )
        return state

    def pretrains(self, public: Dataset) -> bool:
        return super().pretrains(public) and len(public) > 0

    def needs_public_data(self) -> str:
        return ""

    def _started_random(self, state: Payload) -> Payload:
        """Random weights under a random mask that is wider than the run's: rounds narrow it."""
        density = self.settings.start_density or min(1.0, START_WIDER * self.settings.density)
        state.mask = random_start(self.problem, density, "erk")
        apply_mask(state.params, state.mask)
        state.meta[START] = density
        return state

    def finish_round(self, state: Payload, fold: Any) -> Payload:
        """After a random start the mask narrows, by a cube as gradual pruning does (Zhu and Gupta 2017)."""
        after = super().finish_round(state, fold)
        start = state.meta.get(START)
        if isinstance(start, float):
            target = self._narrowed(start, integer(after, "round"))
            if target < density(after.mask):
                weights = {name: after.params[name] for name in self.problem.graph.maskable}
                after.mask = ranking(self.settings.allocation)(weights, target, after.mask)
                apply_mask(after.params, after.mask)
                after.meta["metrics"]["density"] = density(after.mask)  # type: ignore[index,call-overload]
        return after

    def _narrowed(self, start: float, finished: int) -> float:
        """Density after so many finished rounds."""
        own: float = self.settings.density
        rounds = max(1, round(self.settings.narrowing * self.problem.training.rounds))
        left: float = max(0.0, 1.0 - finished / rounds)
        return own + (start - own) * left * left * left

    def step_settings(self, learning_rate: float, control: Control) -> StepSettings:
        """The least of the method's, the run's and the board's shares; the method's own cache."""
        settings, own = super().step_settings(learning_rate, control), self.settings
        keep = min(settings.levers.activation_keep, own.activation_keep)
        levers = replace(settings.levers, activation_keep=keep, cache=own.cache)
        return replace(settings, levers=levers, pruned_norm=own.norms)


def ranking(allocation: str) -> Ranking:
    """The rule by which gradual pruning chooses its next mask."""
    if allocation == "lamp":
        return lamp_mask
    count = ALLOCATIONS[allocation]

    def by_layer(weights: dict[str, FloatArray], density: float, mask: Mask) -> Mask:
        # Weights outside the mask are zero: the largest are inside as long as counts fall.
        return magnitude_mask(weights, count({name: w.shape for name, w in weights.items()}, density))

    return by_layer
