"""The graph that grows while a file is read operator by operator."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from typing import Any, NoReturn

import numpy as np

from tinyfleet.fedcore.arrays import AnyArray, FloatArray, Params
from tinyfleet.fedcore.errors import ConfigError, UnsupportedLayer
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.models.described.document import MOST_NAME, MOST_NODES
from tinyfleet.fedcore.models.graph import INPUT, Node, Op
from tinyfleet.fedcore.models.layers.table import KINDS, output_shape
from tinyfleet.fedcore.models.onnx_import.file import OnnxFile, OnnxOperator
from tinyfleet.fedcore.models.onnx_import.value import Value

_ATTRIBUTES = frozenset(field.name for field in fields(Node))


class Translation:
    """Layers and numbers so far; tensors of the file by name are constants or values."""

    def __init__(self, file: OnnxFile, given: Value) -> None:
        self.nodes: dict[str, Node] = {}
        self.params: Params = {}
        self.shapes: dict[str, tuple[int, ...]] = {INPUT: given.shape}
        self.constants: dict[str, AnyArray] = dict(file.constants)
        self.values: dict[str, Value] = {file.input: given}
        self.readers = Counter(name for operator in file.operators for name in operator.inputs)
        self.readers[file.output] += 1
        self.output = file.output

    def layer(
        self, operator: OnnxOperator, kind: str, inputs: list[Value], params: dict[str, FloatArray] | None = None,
        hint: str = "", **attributes: Any,
    ) -> Value:  # fmt: skip
        """Append a layer. Raises ``ConfigError``, which names the operator."""
        if kind not in KINDS:
            raise UnsupportedLayer(kind, operator.name, "this version of tinyfleet", f"it is {operator}")
        if len(self.nodes) >= MOST_NODES:
            raise ConfigError(f"over {MOST_NODES} layers; give a smaller model")
        if odd := sorted(set(attributes) - _ATTRIBUTES):
            refuse(operator, f"needs {', '.join(odd)}", "export the model without that")
        name = self._name(operator, kind, hint)
        node = Node(name, kind, tuple(value.layer for value in inputs), **attributes)
        try:
            shape = output_shape(node, [value.shape for value in inputs])
        except ConfigError as error:
            raise ConfigError(f"{operator}: {error}") from None
        self.nodes[name], self.shapes[name] = node, shape
        expected = KINDS[kind].params(node)
        for what, spec in expected.items():
            array = (params or {}).get(what)
            if array is None or array.shape != spec.shape:
                held = "nothing" if array is None else str(array.shape)
                refuse(operator, f"its {what} is {held} where {spec.shape} belongs", "export the model again")
            self.params[f"{name}.{what}"] = np.ascontiguousarray(array, np.float32)
        # Axes that the layer does not have any more are sides of one.
        axes = tuple(axis if axis is None or axis <= len(shape) else None for axis in inputs[0].axes)
        return Value(name, shape, axes)

    def with_bias(self, value: Value, bias: FloatArray) -> Value | None:
        """``value`` with a bias, where it is a layer that may still have one; None where it may not."""
        node = self.nodes.get(value.layer)
        if node is None or node.op not in (Op.CONV, Op.LINEAR) or node.bias:
            return None
        self.nodes[node.name] = replace(node, bias=True)
        self.params[f"{node.name}.bias"] = np.ascontiguousarray(bias, np.float32)
        return value

    def _name(self, operator: OnnxOperator, kind: str, hint: str) -> str:
        """Of the weight if it has one, else of the operator: its path without what it says twice."""
        parts = [part for part in re.split(r"[/;]", hint or operator.name) if part]
        if not hint and len(parts) > 1 and parts[-1].split("_")[0] == operator.kind:
            parts.pop()
        path: list[str] = []
        for part in parts:
            if path and part.startswith(f"{path[-1]}."):
                path.pop()  # torch: /features/features.0/features.0.1
            path.append(part)
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", ".".join(path) or kind)[-(MOST_NAME - 6) :].strip(".-_")
        if not base or base == operator.kind or re.fullmatch(rf"{operator.kind}_\d+", base):
            base = kind
        name, count = base, 1
        while name in self.nodes or name == INPUT:
            count += 1
            name = f"{base}_{count}"
        return name


def hint_of(weight: str) -> str:
    """The layer that a weight's name speaks of; "" where it speaks of none."""
    match = re.match(r"([A-Za-z0-9_./-]+)[./](weight|kernel|ReadVariableOp\S*)\Z", weight)
    return "" if match is None or "::" in weight else match[1]


def refuse(operator: OnnxOperator, what: str, remedy: str) -> NoReturn:
    """Raises ``ConfigError``: node, operator, what is not known of it, and the nearest way out."""
    raise ConfigError(f"{operator}: {printable(what)}; {remedy}")
