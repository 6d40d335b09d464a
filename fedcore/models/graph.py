"""A model as a list of layers: one description that engines, accounting and exporters all read.

A graph holds no numbers of the trained model and needs no framework: the coordinator counts
FLOPs, the codec learns shapes and the exporters write files without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tinyfleet.fedcore.arrays import Mask, Params
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.layers.batch_norm import EPSILON as BN_EPSILON
from tinyfleet.fedcore.models.layers.table import kind_of, known, output_shape
from tinyfleet.fedcore.models.node import INPUT, Node, Op
from tinyfleet.fedcore.models.params import STATISTICS, ParamSpec, Role
from tinyfleet.fedcore.models.weight_norm import WeightNorm

__all__ = ["BN_EPSILON", "INPUT", "STATISTICS", "Graph", "Node", "Op", "ParamSpec", "Role", "WeightNorm"]


@dataclass(frozen=True)
class Graph:
    """A model: its layers in execution order, and which weights may be pruned in which blocks.

    ``input_shape`` is (C, H, W) or (C, L) without the batch. ``blocks`` are groups of maskable
    layer names ordered from the output to the input, as progressive pruning visits them
    (FedTiny, section 3.3). The last node gives the logits.

    Raises ``ConfigError`` for layers that do not fit each other or their kind, ``UnsupportedLayer`` for a kind
    that is not known.
    """

    name: str
    input_shape: tuple[int, ...]
    classes: int
    nodes: tuple[Node, ...]
    blocks: tuple[tuple[str, ...], ...]
    arguments: dict[str, int | float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen = {INPUT}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in seen]
            if missing or not node.inputs or node.name in seen:
                what = f"reads {', '.join(missing) or 'nothing'}" if missing or not node.inputs else "is repeated"
                raise ConfigError(f"graph {self.name}: node {node.name} {what}; name earlier nodes, each once")
            seen.add(node.name)
        self.shapes  # noqa: B018 - asked for once, so that what does not fit is told now
        known_weights = {node.name for node in self.weighted}
        in_blocks = [name for block in self.blocks for name in block]
        if len(set(in_blocks)) != len(in_blocks) or not set(in_blocks) <= known_weights:
            raise ConfigError(f"graph {self.name}: blocks must name layers with weights, once each")

    @property
    def output(self) -> str:
        return self.nodes[-1].name

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def params(self) -> dict[str, ParamSpec]:
        """Every named array in execution order, buffers included."""
        return {
            f"{node.name}.{what}": spec for node in self.nodes for what, spec in kind_of(node).params(node).items()
        }

    @cached_property
    def weighted(self) -> tuple[Node, ...]:
        """The layers whose weights may be pruned, as far as their kind is concerned, in execution order."""
        return tuple(node for node in self.nodes if _weighted(node))

    @cached_property
    def statistics(self) -> tuple[str, ...]:
        """Names of the batch-norm running means and variances."""
        return tuple(name for name, spec in self.params.items() if spec.role in STATISTICS)

    @cached_property
    def maskable(self) -> tuple[str, ...]:
        """Weight names that may be pruned, input to output: all in ``blocks``, never stem or output layer."""
        in_blocks = {f"{layer}.weight" for block in self.blocks for layer in block}
        return tuple(name for name in self.params if name in in_blocks)

    @cached_property
    def maskable_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the ``maskable`` weights, in their order."""
        return {name: self.params[name].shape for name in self.maskable}

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Activation shape after each node without the batch; ``"input"`` included."""
        shapes: dict[str, tuple[int, ...]] = {INPUT: self.input_shape}
        for node in self.nodes:
            shapes[node.name] = output_shape(node, [shapes[name] for name in node.inputs])
        return shapes

    def parameter_count(self) -> int:
        """Trainable parameters (running statistics not counted)."""
        return sum(spec.size for spec in self.params.values() if spec.role not in STATISTICS)

    def multiply_adds(self, node: Node, active: int) -> int:
        """Those of one sample in a layer with so many weights. Raises ``UnsupportedLayer``."""
        uses = known(kind_of(node).uses, node, "accounting")
        return active * uses(node, self.shapes[node.inputs[0]], self.shapes[node.name])

    def flops(self, mask: Mask | None = None) -> int:
        """Forward FLOPs of one sample, 2 per multiply-add of layers with weights, from true active counts."""
        total = 0
        for node in self.weighted:
            active = self.params[node.weight].size
            if mask is not None and node.weight in mask:
                active = int(np.count_nonzero(mask[node.weight]))
            total += 2 * self.multiply_adds(node, active)
        return total

    def initial_params(self, seed: int) -> Params:
        """The numbers that training starts from, as each kind says of its arrays."""
        rng = np.random.default_rng(seed)
        params: Params = {}
        for name, spec in self.params.items():
            if spec.spread:
                params[name] = rng.standard_normal(spec.shape, dtype=np.float32) * np.float32(spec.spread)
            else:
                params[name] = np.full(spec.shape, spec.start, np.float32)
        return params


def _weighted(node: Node) -> bool:
    return any(spec.role is Role.WEIGHT for spec in kind_of(node).params(node).values())
