"""FedMef (Huang et al., CVPR 2024, arXiv 2403.14737): extrusion before every pruning, pruned activation caches."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.methods.fedavg import random_start
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.parts.adjusting import Adjusting, AdjustmentSettings
from tinyfleet.fedcore.methods.parts.progressive import Granularity
from tinyfleet.fedcore.run_spec import Count
from tinyfleet.fedcore.training.engine import StepSettings


class FedMefSettings(AdjustmentSettings, frozen=True):
    """FedMef's hyper-parameters, with the paper's values where it gives them.

    Its networks use normalised sparse convolutions in place of batch norm: ``model.arguments.norm = "nsconv"``.
    """

    name: Literal["fedmef"] = "fedmef"
    pretrained: bool = False  # the paper starts from random weights
    allocation: Literal["erk", "uniform"] = "erk"  # layer densities of the random mask
    granularity: Granularity = "entire"
    stop: Count = 300  # R_stop
    scale: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.2
    extrusion: bool = True
    # Scaled activation pruning: share of each layer's input cached for its weight gradient; 1 is exact.
    activation_keep: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.5


class FedMef(Adjusting):
    """A random mask, adjusted in all layers at once every dR rounds after budget-aware extrusion."""

    name = "fedmef"
    settings_type = FedMefSettings

    def initial_mask(self) -> Mask:
        return random_start(self.problem, self.settings.density, self.settings.allocation)

    def step_settings(self, learning_rate: float, control: Control) -> StepSettings:
        """The least of the method's, the run's and the board's shares."""
        settings = super().step_settings(learning_rate, control)
        keep = min(settings.levers.activation_keep, self.settings.activation_keep)
        return replace(settings, levers=replace(settings.levers, activation_keep=keep))
