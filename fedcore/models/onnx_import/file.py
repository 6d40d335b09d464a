"""An ONNX file as operators and constants; everything about its size is checked before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tinyfleet.fedcore.arrays import AnyArray
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.foreign.shown import printable

MOST_BYTES = 1 << 29  # of a file
MOST_OPERATORS = 4096
MOST_TENSORS = 8192
MOST_ELEMENTS = 1 << 27  # of all tensors together
MOST_DIMENSIONS = 8
MOST_LISTED = 4096  # numbers of one attribute

_TYPES: Mapping[int, type[Any]] = MappingProxyType(
    {
        onnx.TensorProto.FLOAT: np.float32,
        onnx.TensorProto.DOUBLE: np.float64,
        onnx.TensorProto.FLOAT16: np.float16,
        onnx.TensorProto.INT64: np.int64,
        onnx.TensorProto.INT32: np.int32,
        onnx.TensorProto.BOOL: np.bool_,
    }
)


@dataclass(frozen=True, slots=True)
class OnnxOperator:
    """One node of the file. ``inputs`` may be "" where an optional one is left out."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"node {printable(repr(self.name), 120)} ({printable(self.kind, 40)})"


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """``input_shape`` is without the batch; a side that the file leaves open is 0."""

    producer: str
    input: str
    input_shape: tuple[int, ...]
    batch: int  # 0: any
    output: str
    operators: tuple[OnnxOperator, ...]
    constants: dict[str, AnyArray]


def read_onnx(path: Path) -> OnnxFile:
    """Raises ``ConfigError`` for what is no ONNX file, too large, or holds data in other files."""
    where = printable(str(path), 300)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read ({error.strerror}); give an ONNX file") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{where}: more than {MOST_BYTES} bytes; give a model that a small board can train")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError):
        raise ConfigError(f"{where}: is no ONNX file, or a damaged one; export it again") from None
    try:
        return _opened(model)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _opened(model: onnx.ModelProto) -> OnnxFile:
    graph = model.graph
    if not graph.node:
        raise ConfigError("holds no operators; export the model again")
    if len(graph.node) > MOST_OPERATORS:
        raise ConfigError(f"{len(graph.node)} operators; at most {MOST_OPERATORS}")
    if len(graph.initializer) > MOST_TENSORS:
        raise ConfigError(f"{len(graph.initializer)} tensors; at most {MOST_TENSORS}")
    if graph.sparse_initializer:
        raise ConfigError("holds sparse tensors; save it dense, pruning is the run's")
    constants, left = {}, MOST_ELEMENTS
    for tensor in graph.initializer:
        name = _text(tensor.name)
        constants[name] = array_of(tensor, left)
        left -= constants[name].size
    inputs = [value for value in graph.input if _text(value.name) not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ConfigError(
            f"{len(inputs)} inputs and {len(graph.output)} outputs; give a model of one input and one output"
        )
    batch, *shape = _sides(inputs[0])
    operators = []
    for node in graph.node:
        operators.append(_operator(node, left))
        left -= sum(value.size for value in operators[-1].attributes.values() if isinstance(value, np.ndarray))
    producer = printable(f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(), 80)
    return OnnxFile(
        producer,
        _text(inputs[0].name),
        tuple(shape),
        batch,
        _text(graph.output[0].name),
        tuple(operators),
        constants,
    )


def _sides(value: onnx.ValueInfoProto) -> list[int]:
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise ConfigError(
            f"input {printable(repr(_text(value.name)), 80)} is not of float32; export the model with that"
        )
    sides = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    if not 2 <= len(sides) <= 4:
        raise ConfigError(f"its input has {len(sides)} dimensions; give a batch, channels and up to two sides")
    if min(sides) < 0 or max(sides) > 1 << 20:
        raise ConfigError(f"its input is {sides}; give sides from 1 to {1 << 20}")
    return sides


def array_of(tensor: onnx.TensorProto, most: int) -> AnyArray:
    """The numbers of one tensor, of ``most`` elements. Raises ``ConfigError``."""
    what = f"tensor {printable(repr(_text(tensor.name)), 80)}"
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise ConfigError(
            f"{what} lies in another file, which is never opened; save the model as one file "
            "(onnx.save(onnx.load(path), path), or torch.onnx.export(..., external_data=False))"
        )
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        raise ConfigError(f"{what} is of type {tensor.data_type}; only floats, integers and truth values are read")
    dims = list(tensor.dims)
    if len(dims) > MOST_DIMENSIONS or any(side < 0 for side in dims):
        raise ConfigError(f"{what} has the shape {dims[:MOST_DIMENSIONS]}; it is damaged")
    size = math.prod(dims)
    if size > most:
        raise ConfigError(f"{what} and those before it have over {MOST_ELEMENTS} numbers")
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size * np.dtype(kind).itemsize:
            raise ConfigError(f"{what} of shape {dims} holds {len(tensor.raw_data)} bytes; it is damaged")
    elif size != (held := max(len(tensor.float_data), len(tensor.double_data), len(tensor.int64_data),
                              len(tensor.int32_data))):  # fmt: skip
        raise ConfigError(f"{what} of shape {dims} holds {held} numbers; it is damaged")
    try:
        array: AnyArray = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{what} cannot be read ({printable(str(error), 100)}); it is damaged") from None
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ConfigError(f"{what} holds numbers that are not finite; the model was saved after it diverged")
    return array


def _operator(node: onnx.NodeProto, most: int) -> OnnxOperator:
    kind, domain = _text(node.op_type), _text(node.domain)
    if domain not in ("", "ai.onnx"):
        kind = f"{domain}.{kind}"
    attributes = {}
    for attribute in node.attribute:
        kinds = onnx.AttributeProto
        value: Any
        if attribute.type == kinds.TENSOR:
            value = array_of(attribute.t, most)
        elif attribute.type == kinds.INTS:
            value = tuple(attribute.ints[:MOST_LISTED])
        elif attribute.type == kinds.FLOATS:
            value = tuple(attribute.floats[:MOST_LISTED])
        elif attribute.type == kinds.INT:
            value = attribute.i
        elif attribute.type == kinds.FLOAT:
            value = attribute.f
        elif attribute.type == kinds.STRING:
            value = attribute.s[:MOST_LISTED].decode("utf-8", "replace")
        else:
            value = None  # a graph within the graph, or the like: its operator is none that is known
        attributes[_text(attribute.name)] = value
    inputs, outputs = (tuple(_text(name) for name in names) for names in (node.input, node.output))
    return OnnxOperator(_text(node.name) or ",".join(outputs), kind, inputs, outputs, attributes)


def _text(given: str | bytes) -> str:
    """A text of the file: what is no UTF-8 comes as bytes."""
    return given if isinstance(given, str) else given.decode("utf-8", "replace")
