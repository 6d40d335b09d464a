"""Writes graphs layer by layer, so that an architecture's file reads like its paper's table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op, WeightNorm
from tinyfleet.fedcore.models.layers.table import output_shape
from tinyfleet.fedcore.models.weight_norm import VP_RELU_GAIN

NORMS = {"batch": WeightNorm.NONE, "nsconv": WeightNorm.ACTIVE, "nsconv-all": WeightNorm.ALL}


class GraphBuilder:
    """Appends layers; every method returns the new layer's name, and reads the latest one by default.

    Spatial arguments are single numbers, used in every spatial dimension of ``input_shape``.
    ``norm`` is what follows a convolution: "batch" (batch norm), or nothing because the convolution's own
    weights are normalised, over a filter's active entries ("nsconv") or all of them ("nsconv-all").
    """

    def __init__(self, name: str, input_shape: Sequence[int], classes: int, norm: str = "batch") -> None:
        if norm not in NORMS:
            raise ConfigError(f"model {name}: norm {norm!r} is unknown; choose one of {', '.join(NORMS)}")
        self._weight_norm = NORMS[norm]
        self.name, self.input_shape, self.classes = name, tuple(input_shape), classes
        self._dimensions = len(input_shape) - 1
        self._nodes: list[Node] = []
        self._shapes = {INPUT: self.input_shape}
        self.last = INPUT

    def conv(
        self,
        name: str,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        source: str | None = None,
        gain: float = 1.0,
    ) -> str:
        """Convolution padded to keep the size at stride 1; it has a bias where no batch norm follows."""
        source = source or self.last
        d = self._dimensions
        node = Node(
            name,
            Op.CONV,
            (source,),
            self._shapes[source][0],
            out,
            (kernel,) * d,
            (stride,) * d,
            (kernel // 2,) * d,
            groups,
            bias=bool(self._weight_norm),
            weight_norm=self._weight_norm,
            gain=gain,
        )
        return self._append(node)

    def conv_norm(
        self,
        name: str,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = Op.RELU,
        source: str | None = None,
        summed: bool = False,
    ) -> str:
        """Convolution, batch norm (or normalised weights) and, unless None, an activation.

        ``summed``: one of two convolutions that are added, each of which gives half of the variance.
        """
        # ReLU6 clips at a fixed height, so that its gain has to stand before it.
        gain = VP_RELU_GAIN if self._weight_norm and activation == Op.RELU6 else 1.0
        gain *= math.sqrt(0.5) if summed else 1.0
        self.conv(name, out, kernel, stride, groups, source, gain)
        if not self._weight_norm:
            self._append(Node(f"{name}.norm", Op.BATCH_NORM, (self.last,), out, out))
        return self.activation(f"{name}.act", activation) if activation else self.last

    def activation(self, name: str, op: str, preserve: bool = True) -> str:
        """An activation; after normalised weights a ReLU preserves the variance, unless told not to."""
        gain = VP_RELU_GAIN if preserve and self._weight_norm and op == Op.RELU else 1.0
        return self._append(Node(name, op, (self.last,), gain=gain))

    def add(self, name: str, left: str, right: str) -> str:
        return self._append(Node(name, Op.ADD, (left, right)))

    def max_pool(self, name: str, kernel: int = 2, stride: int = 2, padding: int = 0) -> str:
        d = self._dimensions
        node = Node(
            name, Op.MAX_POOL, (self.last,), kernel=(kernel,) * d, stride=(stride,) * d, padding=(padding,) * d
        )
        return self._append(node)

    def global_avg_pool(self, name: str = "pool") -> str:
        return self._append(Node(name, Op.GLOBAL_AVG_POOL, (self.last,)))

    def linear(self, name: str, out: int) -> str:
        """Linear layer with bias; its input must be flat."""
        node = Node(name, Op.LINEAR, (self.last,), self._shapes[self.last][0], out, bias=True)
        return self._append(node)

    def build(self, blocks: Sequence[Sequence[str]]) -> Graph:
        """The graph; ``blocks`` are groups of maskable layers from the output to the input."""
        return Graph(
            self.name,
            self.input_shape,
            self.classes,
            tuple(self._nodes),
            tuple(tuple(block) for block in blocks if block),
        )

    def _append(self, node: Node) -> str:
        self._nodes.append(node)
        self._shapes[node.name] = output_shape(node, [self._shapes[source] for source in node.inputs])
        self.last = node.name
        return node.name
