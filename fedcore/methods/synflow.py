"""SynFlow (Tanaka et al., NeurIPS 2020, arXiv 2006.05467): prune before training, without any data."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from tinyfleet.fedcore.arrays import Mask, Params
from tinyfleet.fedcore.datasets.dataset import Dataset
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.fedavg import FedAvg
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Role, WeightNorm
from tinyfleet.fedcore.models.layers.kind import Linearised
from tinyfleet.fedcore.models.layers.table import kind_of, known
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import Positive, Settings
from tinyfleet.fedcore.sparsity.global_mask import global_mask
from tinyfleet.fedcore.sparsity.mask import apply_mask
from tinyfleet.fedcore.training.engine import Engine


class SynFlowSettings(Settings, frozen=True):
    """SynFlow's hyper-parameters, with the paper's values."""

    name: Literal["synflow"] = "synflow"
    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.05
    iterations: Positive = 100  # n: after step k of n the density is density^(k / n)
    pretrained: bool = True  # the paper prunes random weights; True starts as the other methods do


class SynFlow(FedAvg):
    """FedAvg under one mask that keeps the synaptic flow from input to output."""

    name = "synflow"
    settings_type: ClassVar[type[Settings]] = SynFlowSettings

    def initial_state(self, engine: Engine, public: Dataset) -> Payload:
        """The mask sees weights only; ``public`` serves pre-training and normalisation."""
        state = super().initial_state(engine, public)
        s, graph = self.settings, self.problem.graph
        mask: Mask = {}
        for k in range(1, s.iterations + 1):
            scores = flow_scores(engine, graph, state.params, mask)
            mask = global_mask(scores, s.density ** (k / s.iterations), mask)
        apply_mask(state.params, mask)
        return Payload(state.meta, state.params, mask)


def linearised(graph: Graph) -> Graph:
    """The graph of layers alone, weights not normalised: homogeneous in its input and in every layer.

    Batch norms go, and so do the activations: with weights and input non-negative a ReLU is the identity,
    and ReLU6's ceiling would not be linear.
    """
    renamed = {INPUT: INPUT}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(renamed[name] for name in node.inputs)
        becomes = known(kind_of(node).linearised, node, "method 'synflow'")
        if becomes is Linearised.DROPPED:
            renamed[node.name] = inputs[0]
            continue
        renamed[node.name] = node.name
        nodes.append(replace(node, inputs=inputs, weight_norm=WeightNorm.NONE))
    return replace(graph, nodes=tuple(nodes))


def flow_scores(engine: Engine, graph: Graph, params: Params, mask: Mask) -> Params:
    """|w| dR/d|w| of every maskable weight, R = 1^T prod |W_l| 1 (SynFlow, equation 2), up to one common factor.

    Masked weights score 0. Raises ``ConfigError`` where R leaves float32's range however it is scaled.
    """
    linear = linearised(graph)
    ones = np.ones((1, *graph.input_shape), np.float32)
    label = np.zeros(1, np.int64)
    absolute = {
        name: np.abs(params[name]) if spec.role is Role.WEIGHT else np.zeros(spec.shape, np.float32)
        for name, spec in linear.params.items()
    }
    apply_mask(absolute, mask)
    weight = linear.nodes[-1].weight  # all flow passes the output layer, so its scale is a common factor
    for power in range(0, -121, -30):
        # Forward values scale with the input, backward ones with the output layer: either may overflow alone.
        scale = np.float32(2.0**power)
        scaled = absolute | {weight: absolute[weight] * scale}
        engine.load(linear, scaled, mask)
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = engine.dense_gradients(ones * scale, label, graph.maskable, objective="flow")
            scores = {name: absolute[name] * slopes[name] for name in graph.maskable}
        if all(np.isfinite(values).all() for values in scores.values()):
            return scores
    raise ConfigError(f"model {graph.name}: its synaptic flow overflows; start from smaller weights")
