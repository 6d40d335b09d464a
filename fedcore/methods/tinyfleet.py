"""The method of tinyfleet itself: a gradually pruned start, then rounds like those of FedMef on the boards."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta

from tinyfleet.fedcore.arrays import FloatArray, Mask
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.methods.method import Control, normalization_of
from tinyfleet.fedcore.methods.parts.adjusting import Adjusting, AdjustmentSettings
from tinyfleet.fedcore.methods.parts.gradual import Ranking, prune_gradually
from tinyfleet.fedcore.methods.parts.progressive import Granularity
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Count
from tinyfleet.fedcore.sparsity.allocation import ALLOCATIONS
from tinyfleet.fedcore.sparsity.lamp import lamp_mask
from tinyfleet.fedcore.sparsity.mask import magnitude_mask
from tinyfleet.fedcore.training.engine import Engine, StepSettings


class TinyFleetSettings(AdjustmentSettings, frozen=True):
    """Settings of the default method."""

    name: Literal["tinyfleet"] = "tinyfleet"
    pretrained: bool = True
    pruning_epochs: Count = 0  # of gradual pruning on public data; 0: three times those of pre-training
    allocation: Literal["lamp", "erk", "uniform"] = "lamp"  # how the density is shared among layers
    granularity: Granularity = "entire"
    scale: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.05  # a good mask is adjusted gently
    extrusion: bool = True
    # Scaled activation pruning: share of each layer's input cached for its weight gradient; 1 is exact.
    activation_keep: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.3
    cache: Literal["fp32", "fp16"] = "fp16"  # precision of that share
    norms: bool = True  # prune the caches of batch norms as well


class TinyFleet(Adjusting):
    """The coordinator prunes a pre-trained model step by step on public data; devices train and adjust it."""

    name = "tinyfleet"
    settings_type = TinyFleetSettings

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        state = super().initial_state(engine, public)
        s, training = self.settings, self.problem.training
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
