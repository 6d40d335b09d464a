"""A TFLite file under construction: tensors, constants and operators, on LiteRT's own schema classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np

from tinyfleet.export.errors import ExportError
from tinyfleet.fedcore.arrays import AnyArray


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise ExportError(
            "writing TFLite needs the schema that ai-edge-litert ships: pip install ai-edge-litert"
        ) from None
    return schema_py_generated


@dataclass(frozen=True, slots=True)
class Quantization:
    """real = scale (integer - zero_point); more than one scale: one a channel along ``axis``."""

    scale: AnyArray
    zero_point: AnyArray
    axis: int = 0


class TfliteFile:
    """Collects one graph; ``to_bytes`` packs it. Tensor indices are plain numbers."""

    def __init__(self, description: str) -> None:
        self.schema = _schema()
        self._model = self.schema.ModelT()
        self._model.version, self._model.description = 3, description
        self._model.buffers = [self.schema.BufferT()]  # buffer 0 is empty by convention
        self._model.operatorCodes, self._codes = [], {}  # type: ignore[var-annotated]
        self._graph = self.schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = "main", [], []
        self._types = {
            np.dtype(np.float32): self.schema.TensorType.FLOAT32,
            np.dtype(np.float16): self.schema.TensorType.FLOAT16,
            np.dtype(np.int32): self.schema.TensorType.INT32,
            np.dtype(np.int8): self.schema.TensorType.INT8,
        }

    def activation(
        self, name: str, shape: Sequence[int], dtype: Any = np.float32, quantization: Quantization | None = None
    ) -> int:
        """A tensor with a free batch dimension; ``shape`` without it."""
        return self._tensor(name, [1, *shape], np.dtype(dtype), 0, quantization, [-1, *shape])

    def computed(self, name: str, shape: Sequence[int]) -> int:
        """A float tensor of fixed shape that an operator fills."""
        return self._tensor(name, list(shape), np.dtype(np.float32), 0, None, None)

    def constant(self, name: str, array: AnyArray, quantization: Quantization | None = None) -> int:
        """A tensor with fixed content."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        index = len(self._model.buffers) - 1
        return self._tensor(name, list(array.shape), array.dtype, index, quantization, None)

    def operator(
        self, kind: str, inputs: list[int], outputs: list[int], version: int = 1, options: Any = None
    ) -> None:
        """Append one operator; ``kind`` as in BuiltinOperator, ``options`` an object of the schema's."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind, version)
        operator.inputs, operator.outputs = inputs, outputs
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
            operator.builtinOptions = options
        self._graph.operators.append(operator)

    def options(self, name: str, **values: Any) -> Any:
        """One of the schema's option objects with its fields set."""
        made = getattr(self.schema, f"{name}T")()
        for field, value in values.items():
            setattr(made, field, value)
        return made

    def to_bytes(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The finished file."""
        self._graph.inputs, self._graph.outputs = inputs, outputs
        self._model.subgraphs = [self._graph]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _tensor(
        self,
        name: str,
        shape: list[int],
        dtype: Any,
        buffer: int,
        quantization: Quantization | None,
        signature: list[int] | None,
    ) -> int:
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, self._types[dtype], buffer
        tensor.hasRank = True
        if signature is not None:
            tensor.shapeSignature = signature
        if quantization is not None:
            parameters = self.schema.QuantizationParametersT()
            parameters.scale = np.atleast_1d(quantization.scale).astype(np.float32)
            parameters.zeroPoint = np.atleast_1d(quantization.zero_point).astype(np.int64)
            parameters.quantizedDimension = quantization.axis
            tensor.quantization = parameters
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, kind: str, version: int) -> int:
        number = getattr(self.schema.BuiltinOperator, kind)
        if number not in self._codes:
            code = self.schema.OperatorCodeT()
            # Readers of before 2020 know only the deprecated byte, which holds codes up to 127.
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
            self._codes[number] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        return int(self._codes[number])
