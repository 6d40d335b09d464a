"""ONNX files, written directly from the inference layers: no torch, no tracing, milliseconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tinyfleet.export.errors import ExportError
from tinyfleet.export.formats import limits
from tinyfleet.export.formats.format import Export, ExportFormat
from tinyfleet.export.inference_graph import Inference, Layer
from tinyfleet.export.runtimes import open_onnx
from tinyfleet.fedcore.models.graph import INPUT, Graph, Op

OPSET = 17
IR_VERSION = 8  # what goes with opset 17; newer ones lock older runtimes out


def write_onnx(model: Inference, metadata: Mapping[str, str]) -> bytes:
    """The model as float32 ONNX: input (N, C, ...) named "input", output (N, classes) named "logits".

    Initialisers keep the graph's weight names. Raises ``ExportError`` for a layer without an operator.
    """
    nodes, weights = [], []
    for layer in model.layers:
        name = "logits" if layer.name == model.output else layer.name
        inputs = [*layer.inputs]
        if layer.weight is not None and layer.bias is not None:
            for suffix, array in (("weight", layer.weight), ("bias", layer.bias)):
                weights.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{layer.name}.{suffix}"))
                inputs.append(f"{layer.name}.{suffix}")
        nodes += _nodes(layer, inputs, name, weights)
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


def _nodes(layer: Layer, inputs: list[str], name: str, weights: list[TensorProto]) -> list[onnx.NodeProto]:
    node = layer.node
    window = {
        "kernel_shape": list(node.kernel),
        "strides": list(node.stride),
        "pads": [*node.padding, *node.padding],
    }
    match layer.op:
        case Op.CONV:
            return [helper.make_node("Conv", inputs, [name], name, group=node.groups, **window)]
        case Op.LINEAR:
            return [helper.make_node("Gemm", inputs, [name], name, transB=1)]
        case Op.RELU:
            return [helper.make_node("Relu", inputs, [name], name)]
        case Op.RELU6:
            bounds = [f"{layer.name}.{word}" for word in ("min", "max")]
            for bound, value in zip(bounds, (0.0, 6.0), strict=True):
                weights.append(numpy_helper.from_array(np.array(value, np.float32), bound))
            return [helper.make_node("Clip", [*inputs, *bounds], [name], name)]
        case Op.ADD:
            return [helper.make_node("Add", inputs, [name], name)]
        case Op.MAX_POOL:
            return [helper.make_node("MaxPool", inputs, [name], name, **window)]
        case Op.GLOBAL_AVG_POOL:
            pooled = f"{name}.spatial"
            return [
                helper.make_node("GlobalAveragePool", inputs, [pooled], pooled),
                helper.make_node("Flatten", [pooled], [name], name),
            ]
        case Op.FLATTEN:
            return [helper.make_node("Flatten", inputs, [name], name)]
    raise ExportError(f"layer {layer.name} ({layer.op}) has no ONNX operator here")


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
