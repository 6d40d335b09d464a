"""Models and steps as the native engine takes them."""

from __future__ import annotations

import sparse_engine
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.graph import Graph, Node, Op
from tinyfleet.fedcore.models.layers.table import known
from tinyfleet.fedcore.training.engine import StepSettings


def model_of(graph: Graph) -> sparse_engine.Model:
    """The same layers under the same names. Raises ``ConfigError`` where the engine cannot run one of them."""
    try:
        return sparse_engine.Model(graph.input_shape, tuple(layer_of(node) for node in graph.nodes))
    except ValueError as error:
        raise ConfigError(
            f"engine 'native' cannot run model {graph.name!r} ({error}); use engine 'torch'"
        ) from None


def step_of(settings: StepSettings) -> sparse_engine.StepOptions:
    """One optimiser step."""
    levers = settings.levers
    return sparse_engine.StepOptions(
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        micro_batch=levers.micro_batch,
        penalty=settings.penalty,
        recompute=levers.recompute,
        keep=levers.activation_keep,
        cache=levers.cache if levers.lossy else "fp32",
        pruned_norm=settings.pruned_norm,
    )


KINDS: dict[str, sparse_engine.Op] = {
    Op.CONV: sparse_engine.Op.CONV,
    Op.LINEAR: sparse_engine.Op.LINEAR,
    Op.BATCH_NORM: sparse_engine.Op.BATCH_NORM,
    Op.RELU: sparse_engine.Op.RELU,
    Op.RELU6: sparse_engine.Op.RELU6,
    Op.LEAKY_RELU: sparse_engine.Op.LEAKY_RELU,
    Op.HARD_SWISH: sparse_engine.Op.HARD_SWISH,
    Op.HARD_SIGMOID: sparse_engine.Op.HARD_SIGMOID,
    Op.SIGMOID: sparse_engine.Op.SIGMOID,
    Op.TANH: sparse_engine.Op.TANH,
    Op.ADD: sparse_engine.Op.ADD,
    Op.MUL: sparse_engine.Op.MUL,
    Op.CONCAT: sparse_engine.Op.CONCAT,
    Op.SLICE: sparse_engine.Op.SLICE,
    Op.SHUFFLE: sparse_engine.Op.SHUFFLE,
    Op.CROP: sparse_engine.Op.CROP,
    Op.UPSAMPLE: sparse_engine.Op.UPSAMPLE,
    Op.MAX_POOL: sparse_engine.Op.MAX_POOL,
    Op.AVG_POOL: sparse_engine.Op.AVG_POOL,
    Op.GLOBAL_AVG_POOL: sparse_engine.Op.GLOBAL_AVG_POOL,
    Op.FLATTEN: sparse_engine.Op.FLATTEN,
    Op.DROPOUT: sparse_engine.Op.DROPOUT,
}
"""What the engine calls each kind."""


def layer_of(node: Node) -> sparse_engine.Layer:
    """A node as the engine describes it. Raises ``UnsupportedLayer``."""
    return sparse_engine.Layer(
        node.name,
        known(KINDS.get(node.op), node, "engine 'native'", "use engine 'torch'"),
        node.inputs,
        node.in_channels,
        node.out_channels,
        node.kernel,
        node.stride,
        node.padding,
        node.groups,
        node.bias,
        node.weight_norm.value,
        # A normalised convolution's gain is learnt: the engine gets it with the numbers.
        1.0 if node.op == Op.CONV else node.gain,
        rate=node.rate,
        dilation=node.dilation,
        start=node.start,
    )
