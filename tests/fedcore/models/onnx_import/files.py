"""Small ONNX files, as tf2onnx, keras and torch write them, made by hand."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def array(seed, *shape, low=-0.5):
    return np.random.default_rng(seed).uniform(low, low + 1.0, shape).astype(np.float32)


def node(kind, inputs, output, **attributes):
    name = f"model/{output}"
    return helper.make_node(kind, inputs, [output] if isinstance(output, str) else output, name=name, **attributes)


def save(path, nodes, constants, shape, output="y", classes=3, version=13, batch="N"):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *shape])
    found = helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, classes])
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "model", [given], [found], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], producer_name="tf2onnx")
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def keras_images(path, pads="VALID", **changed):
    """Channels last, a batch norm of epsilon 1e-3, a dense layer over what was flattened channels last, softmax."""
    constants = {
        "w1": array(1, 4, 2, 3, 3),
        "g": array(2, 4, low=0.5), "b": array(3, 4), "m": array(4, 4), "v": array(5, 4, low=0.5),
        "w2": array(6, 4, 1, 3, 3), "b2": array(7, 4),
        "flat": np.array([-1, 4 * 3 * 4]), "dense": array(8, 48, 3), "bias": array(9, 3),
    } | changed.pop("constants", {})  # fmt: skip
    padding = {"auto_pad": pads}
    nodes = [
        node("Transpose", ["x"], "t1", perm=[0, 3, 1, 2]),
        node("Conv", ["t1", "w1"], "c1", kernel_shape=[3, 3], **(padding | changed)),
        node("BatchNormalization", ["c1", "g", "b", "m", "v"], "n1", epsilon=1e-3),
        node("Transpose", ["n1"], "t2", perm=[0, 2, 3, 1]),
        node("Relu", ["t2"], "r1"),
        node("Transpose", ["r1"], "t3", perm=[0, 3, 1, 2]),
        node("Conv", ["t3", "w2", "b2"], "c2", kernel_shape=[3, 3], group=4, pads=[1, 1, 1, 1]),
        node("MaxPool", ["c2"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["p"], "t4", perm=[0, 2, 3, 1]),
        node("Reshape", ["t4", "flat"], "f"),
        node("MatMul", ["f", "dense"], "d"),
        node("Add", ["d", "bias"], "a"),
        node("Softmax", ["a"], "y"),
    ]
    return save(path, nodes, constants, (8, 10, 2))


def keras_series(path):
    """A one-dimensional convolution as tf2onnx writes it: two-dimensional, over a side of one."""
    constants = {
        "one": np.array([2]), "w": array(1, 4, 2, 1, 5), "b": array(2, 4), "d": array(3, 4, 3), "e": array(4, 3),
    }  # fmt: skip
    nodes = [
        node("Transpose", ["x"], "t", perm=[0, 2, 1]),
        node("Unsqueeze", ["t", "one"], "u"),
        node("Conv", ["u", "w", "b"], "c", kernel_shape=[1, 5], strides=[1, 2], pads=[0, 2, 0, 2]),
        node("Relu", ["c"], "r"),
        node("Squeeze", ["r", "one"], "s"),
        node("Transpose", ["s"], "back", perm=[0, 2, 1]),
        node("ReduceMean", ["back"], "m", axes=[1], keepdims=0),
        node("MatMul", ["m", "d"], "k"),
        node("Add", ["k", "e"], "y"),
    ]
    return save(path, nodes, constants, (16, 2))


def dense(path, kind="Relu", **attributes):
    """Two linear layers with one operator between them."""
    nodes = [
        node("Gemm", ["x", "w1", "b1"], "h", transB=1),
        node(kind, ["h"], "r", **attributes),
        node("Gemm", ["r", "w2"], "y", transB=1),
    ]
    return save(path, nodes, {"w1": array(1, 5, 4), "b1": array(2, 5), "w2": array(3, 3, 5)}, (4,))
