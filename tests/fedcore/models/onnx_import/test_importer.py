"""Files of several writers give the model that they hold; all others are refused by node and operator."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime")

from tests.fedcore.models.onnx_import.files import array, dense, keras_images, keras_series, node, save
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.onnx_import import file as onnx_file
from tinyfleet.fedcore.models.onnx_import.importer import import_onnx
from tinyfleet.fedcore.training.registry import available
from tinyfleet.importing import import_verified

pytestmark = pytest.mark.skipif(not available(), reason="an import is compared with what an engine computes")


def kinds(graph):
    return [str(n.op) for n in graph.nodes]


def test_transposes_cancel_and_a_batch_norm_stays(tmp_path):
    found = import_verified(keras_images(tmp_path / "k.onnx"), "k")
    graph = found.imported.graph
    assert kinds(graph) == ["conv", "batch_norm", "relu", "conv", "max_pool", "flatten", "linear"]
    assert graph.input_shape == (2, 8, 10)
    assert (found.imported.channels_last, found.imported.ending) == (True, "Softmax")
    assert graph.by_name[graph.output].bias, "what MatMul and Add are together"
    assert found.difference < 1e-6


def test_same_padding_is_what_it_comes_to(tmp_path):
    """At stride 1 alike on both sides; at stride 2 it depends on the size."""
    flat = {"flat": np.array([-1, 4 * 4 * 5]), "dense": array(8, 80, 3)}
    graph = import_verified(keras_images(tmp_path / "k.onnx", "SAME_UPPER", constants=flat), "k").imported.graph
    assert graph.nodes[0].padding == (1, 1)


@pytest.mark.parametrize(("auto", "padding"), [("SAME_UPPER", (0, 0, 1, 1)), ("SAME_LOWER", (1, 1, 0, 0))])
def test_an_odd_rest_of_same_padding_is_on_one_side(tmp_path, auto, padding):
    flat = {"flat": np.array([-1, 4 * 2 * 2]), "dense": array(8, 16, 3)}
    path = keras_images(tmp_path / "k.onnx", auto, constants=flat, strides=[2, 2])
    found = import_verified(path, "k")
    assert found.imported.graph.nodes[0].padding == padding
    assert found.difference < 1e-6


def test_a_series_of_keras_is_one_dimensional(tmp_path):
    found = import_verified(keras_series(tmp_path / "s.onnx"), "s")
    graph = found.imported.graph
    assert kinds(graph) == ["conv", "relu", "global_avg_pool", "linear"]
    assert graph.input_shape == (2, 16)
    assert graph.nodes[0].kernel == (5,)


def test_what_is_open_is_said_by_the_run(tmp_path):
    nodes = [
        node("Conv", ["x", "w"], "c", kernel_shape=[3, 3]),
        node("GlobalAveragePool", ["c"], "g"),
        node("Flatten", ["g"], "y"),
    ]
    path = save(tmp_path / "o.onnx", nodes, {"w": array(1, 3, 1, 3, 3)}, (1, "H", "W"))
    with pytest.raises(ConfigError, match=r"leaves sides open; say them: model\.input_shape"):
        import_onnx(path, "o")
    assert import_verified(path, "o", (1, 9, 7)).imported.graph.shapes["model.c"] == (3, 7, 5)
    with pytest.raises(ConfigError, match=r"its input is \[1, 0, 0\].*says \[3, 9, 7\]"):
        import_onnx(path, "o", (3, 9, 7))


@pytest.mark.parametrize(
    ("kind", "attributes", "said"),
    [
        ("Softplus", {}, r"node 'model/r' \(Softplus\): is not read; these are: Conv"),
        ("Elu", {}, r"\(Elu\): is not read; use ReLU"),
        ("LeakyRelu", {"alpha": 0.3}, r"its slope is 0.3; use the slope"),
        ("Softmax", {}, "it is read as the last operator alone"),
        ("Flatten", {"axis": 0}, "flattens from axis 0"),
    ],
)
def test_an_operator_that_is_not_read_is_named_with_a_way_out(kind, attributes, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as refused:
        import_onnx(dense(tmp_path / "d.onnx", kind, **attributes), "d")
    assert str(tmp_path / "d.onnx") in str(refused.value)


def test_a_damaged_weight_is_seen_by_the_comparison(tmp_path, monkeypatch):
    path = dense(tmp_path / "d.onnx")
    right = import_onnx(path, "d")
    right.params["model.h.bias"] += 1e-3
    monkeypatch.setattr("tinyfleet.importing.import_onnx", lambda *given: right)
    with pytest.raises(ConfigError, match="differs from ONNX Runtime by"):
        import_verified(path, "d")


# -- bounds -----------------------------------------------------------------------------


def changed(tmp_path, change):
    path = dense(tmp_path / "d.onnx")
    model = onnx.load(str(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def dims(*sides):
    def change(model):
        model.graph.initializer[0].dims[:] = sides

    return change


def not_finite(model):
    tensor = model.graph.initializer[0]
    tensor.raw_data = np.full(20, np.nan, np.float32).tobytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (external, "lies in another file, which is never opened"),
        (dims(1 << 40, 1 << 40), "have over 134217728 numbers"),
        (dims(-1, 20), "it is damaged"),
        (dims(5, 5), "holds 80 bytes; it is damaged"),
        (not_finite, "not finite"),
        (lambda model: model.graph.ClearField("node"), "holds no operators"),
        (lambda model: model.graph.input.add(name="z"), "2 inputs and 1 outputs"),
        (lambda model: model.graph.node[1].input.__setitem__(0, "nothing"), "which nothing gives"),
    ],
)
def test_what_a_file_says_of_itself_is_checked_before_it_is_believed(change, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        import_onnx(changed(tmp_path, change), "d")


def test_a_file_that_is_too_large_or_none_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "d.onnx"
    with pytest.raises(ConfigError, match=r"d\.onnx: cannot be read \(No such file"):
        import_onnx(path, "d")
    path.write_bytes(b"\x00nothing like it")
    with pytest.raises(ConfigError, match=r"is no ONNX file, or a damaged one|holds no operators"):
        import_onnx(path, "d")
    monkeypatch.setattr(onnx_file, "MOST_BYTES", 100)
    with pytest.raises(ConfigError, match="more than 100 bytes"):
        import_onnx(dense(path), "d")
