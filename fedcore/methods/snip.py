"""SNIP (Lee et al., ICLR 2019, arXiv 1810.02340): prune once, before training, by connection sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import FloatArray, IntArray, Mask, Params
from tinyfleet.fedcore.datasets.dataset import Dataset, batches
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.methods.fedavg import FedAvg
from tinyfleet.fedcore.methods.method import normalization_of
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.weight_norm import normalized_weight
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Positive, Settings
from tinyfleet.fedcore.sparsity.global_mask import global_mask
from tinyfleet.fedcore.sparsity.mask import apply_mask
from tinyfleet.fedcore.training.engine import Engine


class SnipSettings(Settings, frozen=True):
    """SNIP's hyper-parameters."""

    name: Literal["snip"] = "snip"
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    batches: Positive = 10  # of public data behind the scores, of the training batch's size
    iterations: Positive = 1  # above 1 density falls geometrically, scored anew each time (de Jorge et al. 2021)
    pretrained: bool = True  # the paper prunes random weights; True starts as the other methods do


class Snip(FedAvg):
    """FedAvg under one mask, scored on public data at the coordinator: never on test or device data."""

    name = "snip"
    settings_type: ClassVar[type[Settings]] = SnipSettings

    def needs_public_data(self) -> str:
        return "scores weights on public data: choose synflow"

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """Raises ``DataError`` without public data."""
        if not len(public):
            raise DataError("there is no public data to score on; raise data.public_fraction (0.1, say)")
        state = super().initial_state(engine, public)
        s, graph = self.settings, self.problem.graph
        rng = np.random.default_rng([self.problem.seed, 4])
        shuffled = batches(public, self.problem.training.batch, normalization_of(state), rng)
        data = list(islice(shuffled, s.batches))
        mask: Mask = {}
        for k in range(1, s.iterations + 1):
            scores = sensitivities(engine, graph, state.params, mask, data)
            mask = global_mask(scores, s.density ** (k / s.iterations), mask)
        apply_mask(state.params, mask)
        return Payload(state.meta, state.params, mask)


def sensitivities(
    engine: Engine, graph: Graph, params: Params, mask: Mask, data: Sequence[tuple[FloatArray, IntArray]]
) -> Params:
    """|dL/dc| = |w dL/dw| of every maskable weight (SNIP, equation 5), L summed over all samples.

    A normalised convolution uses w^ in place of w: that is what its mask multiplies. Masked weights score 0.
    """
    engine.load(graph, params, mask)
    slopes = {name: np.zeros(graph.params[name].shape, np.float32) for name in graph.maskable}
    for x, y in data:
        for name, gradient in engine.dense_gradients(x, y, graph.maskable).items():
            slopes[name] += gradient * np.float32(len(y))
    scores: Params = {}
    for node in graph.weighted:
        if node.weight not in slopes:
            continue
        weight = params[node.weight]
        active = mask.get(node.weight, np.ones(weight.shape, np.bool_))
        if node.weight_norm:
            weight = normalized_weight(weight, params[node.filter_gain], active, node.weight_norm)
        scores[node.weight] = np.where(active, np.abs(weight * slopes[node.weight]), np.float32(0.0))
    return scores
