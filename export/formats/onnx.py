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
from tinyfleet.fedcore.models.layers.crop import cuts
from tinyfleet.fedcore.models.layers.leaky_relu import SLOPE
from tinyfleet.fedcore.models.layers.relu6 import CEILING
from tinyfleet.fedcore.models.layers.table import known
from tinyfleet.fedcore.models.layers.window import dilations, pads

OPSET = 17
IR_VERSION = 8  # what goes with opset 17; newer ones lock older runtimes out


def write_onnx(model: Inference, metadata: Mapping[str, str]) -> bytes:
    """The model as float32 ONNX: input (N, C, ...) named "input", output (N, classes) named "logits".

    Initialisers keep the graph's weight names. Raises ``UnsupportedLayer`` for a layer without an operator.
    """
    nodes, weights = [], []
    shapes = {INPUT: model.input_shape} | {layer.name: layer.shape for layer in model.layers}
    for layer in model.layers:
        name = "logits" if layer.name == model.output else layer.name
        inputs = [*layer.inputs]
        if layer.weight is not None and layer.bias is not None:
            for suffix, array in (("weight", layer.weight), ("bias", layer.bias)):
                weights.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{layer.name}.{suffix}"))
                inputs.append(f"{layer.name}.{suffix}")
        write = known(OPERATORS.get(layer.op), layer.node, "the ONNX writer")
        nodes += write(OnnxCall(layer, inputs, name, weights, shapes))
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
    shapes: Mapping[str, tuple[int, ...]]  # of all layers, without the batch

    def node(self, operator: str, **attributes: Any) -> list[onnx.NodeProto]:
        """The layer as a single operator."""
        return [helper.make_node(operator, self.inputs, [self.output], self.output, **attributes)]

    def integers(self, word: str, values: list[int]) -> str:
        """Name of a new constant of whole numbers."""
        name = f"{self.layer.name}.{word}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def constant(self, word: str, value: float) -> str:
        """Name of a new constant."""
        name = f"{self.layer.name}.{word}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name


def _window(node: Node) -> dict[str, list[int]]:
    before, behind = pads(node)
    return {"kernel_shape": list(node.kernel), "strides": list(node.stride), "pads": [*before, *behind]}


def _conv(call: OnnxCall) -> list[onnx.NodeProto]:
    node = call.layer.node
    spread = {"dilations": list(dilations(node))} if node.dilation else {}
    return call.node("Conv", group=node.groups, **spread, **_window(node))


def _relu6(call: OnnxCall) -> list[onnx.NodeProto]:
    bounds = [call.constant("min", 0.0), call.constant("max", CEILING)]
    return [helper.make_node("Clip", [*call.inputs, *bounds], [call.output], call.output)]


def _mul(call: OnnxCall) -> list[onnx.NodeProto]:
    whole, factor = (call.shapes[name] for name in call.layer.inputs)
    missing = len(whole) - len(factor)
    if not missing:
        return call.node("Mul")
    spread = f"{call.output}.factor"
    axes = call.integers("axes", [2 + i for i in range(missing)])
    return [
        helper.make_node("Unsqueeze", [call.inputs[1], axes], [spread], spread),
        helper.make_node("Mul", [call.inputs[0], spread], [call.output], call.output),
    ]


def _slice(call: OnnxCall) -> list[onnx.NodeProto]:
    node = call.layer.node
    ends = {"starts": [node.start], "ends": [node.start + node.out_channels], "axes": [1]}
    bounds = [call.integers(word, values) for word, values in ends.items()]
    return [helper.make_node("Slice", [*call.inputs, *bounds], [call.output], call.output)]


def _crop(call: OnnxCall) -> list[onnx.NodeProto]:
    before, _ = cuts(call.layer.node)
    sizes = call.layer.shape[1:]
    ends = {
        "starts": [*before],
        "ends": [first + size for first, size in zip(before, sizes, strict=True)],
        "axes": [2 + dimension for dimension in range(len(sizes))],
    }
    bounds = [call.integers(word, values) for word, values in ends.items()]
    return [helper.make_node("Slice", [*call.inputs, *bounds], [call.output], call.output)]


def _shuffle(call: OnnxCall) -> list[onnx.NodeProto]:
    groups, shape = call.layer.node.groups, call.layer.shape
    apart, turned = f"{call.output}.groups", f"{call.output}.turned"
    split = call.integers("apart", [0, groups, shape[0] // groups, *shape[1:]])
    whole = call.integers("whole", [0, *shape])
    order = [0, 2, 1, *range(3, 2 + len(shape))]
    return [
        helper.make_node("Reshape", [*call.inputs, split], [apart], apart),
        helper.make_node("Transpose", [apart], [turned], turned, perm=order),
        helper.make_node("Reshape", [turned, whole], [call.output], call.output),
    ]


def _upsample(call: OnnxCall) -> list[onnx.NodeProto]:
    name = f"{call.layer.name}.factors"
    factors = np.array([1, 1, *call.layer.node.kernel], np.float32)
    call.constants.append(numpy_helper.from_array(factors, name))
    inputs = [*call.inputs, "", name]
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [helper.make_node("Resize", inputs, [call.output], call.output, **how)]


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
    Op.HARD_SIGMOID: lambda call: call.node("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    Op.SIGMOID: lambda call: call.node("Sigmoid"),
    Op.TANH: lambda call: call.node("Tanh"),
    Op.SOFTMAX: lambda call: call.node("Softmax", axis=1),
    Op.ADD: lambda call: call.node("Add"),
    Op.MUL: _mul,
    Op.CONCAT: lambda call: call.node("Concat", axis=1),
    Op.SLICE: _slice,
    Op.SHUFFLE: _shuffle,
    Op.CROP: _crop,
    Op.UPSAMPLE: _upsample,
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
