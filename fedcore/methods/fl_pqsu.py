"""FL-PQSU (Xu et al., 2021), its pruning and quantisation: whole filters go once, uploads are 8-bit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import BoolArray, FloatArray, Mask
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.fedavg import FedAvg
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Settings
from tinyfleet.fedcore.sparsity.mask import apply_mask, largest
from tinyfleet.fedcore.training.engine import Engine


class FlPqsuSettings(Settings, frozen=True):
    """FL-PQSU's hyper-parameters."""

    name: Literal["fl_pqsu"] = "fl_pqsu"
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05  # of every layer's filters
    pretrained: bool = True


class FlPqsu(FedAvg):
    """FedAvg without each layer's filters of the smallest L1 norm, chosen once at the coordinator.

    Left out is the paper's selective updating, by which devices skip uploads of little relevance.
    """

    name = "fl_pqsu"
    settings_type: ClassVar[type[Settings]] = FlPqsuSettings
    upload_precision: ClassVar[Literal["fp32", "fp16", "int8"] | None] = "int8"

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """Raises ``ConfigError`` where the model has no layer to prune."""
        graph = self.problem.graph
        if not graph.maskable:
            raise ConfigError(f"model {graph.name} has no maskable layer to prune")
        state = super().initial_state(engine, public)
        mask: Mask = {name: filter_mask(state.params[name], self.settings.density) for name in graph.maskable}
        apply_mask(state.params, mask)
        return Payload(state.meta, state.params, mask)


def filter_mask(weights: FloatArray, density: float) -> BoolArray:
    """Mask of ``weights`` (filters, ...) that keeps the max(1, round(d filters)) of the largest L1 norm."""
    norms = np.abs(weights.reshape(len(weights), -1)).sum(axis=1)
    kept = largest(norms, np.arange(len(norms)), max(1, round(density * len(norms))))
    mask = np.zeros(weights.shape, np.bool_)
    mask[kept] = True
    return mask
