"""Ten models that people train on boards: exported by torch, imported, and equal to ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from tests.fedcore.models.onnx_import.yardstick import MODELS, export
from tinyfleet.fedcore.models.described.document import document_of, graph_of
from tinyfleet.importing import TOLERANCE, import_verified

pytestmark = pytest.mark.filterwarnings("ignore")
LARGE = {"mobilenet_v1", "efficientnet_lite0", "mobilenet_v3_small", "squeezenet", "shufflenet_v2"}
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
