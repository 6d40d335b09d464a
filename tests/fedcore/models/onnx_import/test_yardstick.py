"""Ten models that people train on boards: exported by torch, imported, and equal to ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from tests.fedcore.models.onnx_import.yardstick import MODELS, export
from tinyfleet.export.report import export_model
from tinyfleet.export.verify import check
from tinyfleet.fedcore.models.described.document import document_of, graph_of
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.importing import TOLERANCE, import_verified

pytestmark = pytest.mark.filterwarnings("ignore")
LARGE = {"mobilenet_v1", "efficientnet_lite0", "mobilenet_v3_small", "squeezenet", "shufflenet_v2"}
# Five steps on noise from drawn weights are chaotic: torch in float32 and float64 differ by 1e-2 as well.
CHAOTIC = {"mobilenet_v1", "efficientnet_lite0", "shufflenet_v2"}
PARAMETERS = {"mobilenet_v1": 213_586, "resnet8": 77_946, "ds_cnn": 23_180, "autoencoder": 267_928,
              "efficientnet_lite0": 3_383_818, "mobilenet_v3_small": 1_528_106, "squeezenet": 727_626,
              "shufflenet_v2": 352_042, "tcn": 23_142, "cnn_1d": 36_582}  # fmt: skip


@pytest.mark.parametrize("merged", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["norms", "merged"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in MODELS]
)
def test_a_yardstick_model_is_imported(name, merged, tmp_path):
    path = tmp_path / f"{name}.onnx"
    model, shape = export(name, path, merged=merged)
    found = import_verified(path, name)
    graph, params = found.imported.graph, found.imported.params
    assert found.difference <= TOLERANCE
    assert graph.input_shape == shape
    assert graph_of(document_of(graph)) == graph
    norms = [node for node in graph.nodes if node.op == "batch_norm"]
    weights = sum(weight.numel() for weight in model.parameters())
    if not merged:
        assert graph.parameter_count() == weights == PARAMETERS[name]
        assert bool(norms) == any("running_mean" in key for key in model.state_dict())
        for key, value in model.state_dict().items():  # under the names that the author gave
            if key in params:
                np.testing.assert_array_equal(params[key].ravel(), value.numpy().ravel())
        assert next(iter(model.state_dict())) in params
    elif name != "autoencoder":
        assert not norms, "torch merges what follows a convolution"
    assert len(graph.blocks) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_it_trains_alike_on_both_engines_and_is_exported(name, tmp_path):
    """Under a mask of density 0.1; every file that can be written here computes what the trained model does."""
    pytest.importorskip("sparse_engine")
    path = tmp_path / f"{name}.onnx"
    export(name, path)
    imported = import_verified(path, name).imported
    graph, rng = imported.graph, np.random.default_rng(0)
    mask = {key: rng.random(shape) < 0.1 for key, shape in graph.maskable_shapes.items()}
    x = rng.standard_normal((16, *graph.input_shape), dtype=np.float32)
    y = rng.integers(0, graph.classes, 16)
    losses = {}
    for kind in ("native", "torch"):
        engine = create(kind)
        engine.load(graph, imported.params, mask)
        steps = 1 if name in CHAOTIC else 5
        losses[kind] = [engine.train_step(x, y, StepSettings(0.01, 0.9, 5e-4)) for _ in range(steps)]
    assert losses["native"] == pytest.approx(losses["torch"], abs=1e-4)
    rows = export_model(
        graph, engine.params(), mask, tmp_path / "out", calibration=x, x=x, y=y, reference=engine.predict
    )
    check(rows)
    assert {(row.format, row.precision) for row in rows} >= {
        ("onnx", "fp32"), ("tflite", "fp32"), ("tflite", "fp16"), ("tflite", "int8"), ("sparse", "fp32"),
    }  # fmt: skip
