"""ONNX files, written directly from the inference layers: no torch, no tracing, milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tinyfleet.export.formats import limits
from tinyfleet.export.formats.format import Export, ExportFormat
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.export.runtimes import open_onnx
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.layers.leaky_relu import SLOPE
from tinyfleet.fedcore.models.layers.relu6 import CEILING
from tinyfleet.fedcore.models.layers.table import known

OPSET = 17
IR_VERSION = 8  # what goes with opset 17; newer ones lock older runtimes out


def write_onnx(model: Inference, metadata: Mapping[str, str]) -> bytes:
    """The model as float32 ONNX: input (N, C, ...) named "input", output (N, classes) named "logits".

    Initialisers keep the graph's weight names. Raises ``UnsupportedLayer`` for a layer without an operator.
    """
    nodes, weights = [], []
    for layer in model.layers:
        name = "logits" if layer.name == model.output else layer.name
        inputs = [*layer.inputs]
        if layer.weight is not None and layer.bias is not None:
            for suffix, array in (("weight", layer.weight), ("bias", layer.bias)):
                weights.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{layer.name}.{suffix}"))
                inputs.append(f"{layer.name}.{suffix}")
        write = known(OPERATORS.get(layer.op), layer.node, "the ONNX writer")
        nodes += write(OnnxCall(layer, inputs, name, weights))
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *model.input_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", model.classes])],
        weights,
    )
    file = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tinyfleet", ir_version=IR_VERSION
    )
    helper.set_model_props(file, dict(metadata))
    onnx.checker.check_model(file, full_check=True)
    data: bytes = file.SerializeToString()
    return data


@dataclass(frozen=True, slots=True)
class OnnxCall:
    """One layer on its way into a file: where it reads and writes, and the file's constants to add to."""

    layer: Layer
    inputs: list[str]  # weight and bias behind the layer's own
    output: str
    constants: list[TensorProto]

    def node(self, operator: str, **attributes: Any) -> list[onnx.NodeProto]:
        """The layer as a single operator."""
        return [helper.make_node(operator, self.inputs, [self.output], self.output, **attributes)]

    def constant(self, word: str, value: float) -> str:
        """Name of a new constant."""
        name = f"{self.layer.name}.{word}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name


def _window(node: Node) -> dict[str, list[int]]:
    return {
        "kernel_shape": list(node.kernel),
        "strides": list(node.stride),
        "pads": [*node.padding, *node.padding],
    }


def _conv(call: OnnxCall) -> list[onnx.NodeProto]:
    return call.node("Conv", group=call.layer.node.groups, **_window(call.layer.node))


def _relu6(call: OnnxCall) -> list[onnx.NodeProto]:
    bounds = [call.constant("min", 0.0), call.constant("max", CEILING)]
    return [helper.make_node("Clip", [*call.inputs, *bounds], [call.output], call.output)]


def _global_avg_pool(call: OnnxCall) -> list[onnx.NodeProto]:
    pooled = f"{call.output}.spatial"
    return [
        helper.make_node("GlobalAveragePool", call.inputs, [pooled], pooled),
        helper.make_node("Flatten", [pooled], [call.output], call.output),
    ]


OPERATORS: dict[str, Callable[[OnnxCall], list[onnx.NodeProto]]] = {
    Op.CONV: _conv,
    Op.LINEAR: lambda call: call.node("Gemm", transB=1),
    Op.RELU: lambda call: call.node("Relu"),
    Op.RELU6: _relu6,
    Op.LEAKY_RELU: lambda call: call.node("LeakyRelu", alpha=SLOPE),
    Op.HARD_SWISH: lambda call: call.node("HardSwish"),
    Op.ADD: lambda call: call.node("Add"),
    Op.CONCAT: lambda call: call.node("Concat", axis=1),
    Op.MAX_POOL: lambda call: call.node("MaxPool", **_window(call.layer.node)),
    Op.AVG_POOL: lambda call: call.node("AveragePool", **_window(call.layer.node)),
    Op.GLOBAL_AVG_POOL: _global_avg_pool,
    Op.FLATTEN: lambda call: call.node("Flatten"),
}
"""How each kind is written. Batch norms are merged by then."""


def measured_density(content: bytes, graph: Graph) -> float:
    """Weights that are not zero in an ONNX file's content, as a share of the graph's maskable ones.

    Removed weights count as the zeros that they stand for.
    """
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_model_from_string(content).graph.initializer
    }
    total = sum(graph.params[name].size for name in graph.maskable)
    return sum(int(np.count_nonzero(weights[name])) for name in graph.maskable) / total if total else 1.0


def _write(export: Export) -> bytes:
    return write_onnx(export.model, export.metadata)


FP32 = ExportFormat(
    "onnx", "fp32", "onnx", "channels first", limits.FP32, _write, open_onnx, density=measured_density
)
