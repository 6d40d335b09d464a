"""Runs that bring their model or start from one: what is stored, what is trained, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sparse_engine")
pytest.importorskip("onnxruntime")

from tests.fedcore.models.onnx_import.files import array, node, save
from tinyfleet.cli.runs import read_spec, read_submission
from tinyfleet.coordinator.run.engine_child import Workbench
from tinyfleet.coordinator.store.store import Store
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.start import FOLDER, keep_start, read_start
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import simulate

RUN = """\
name = "own"
seed = 5
[method]
name = "fedavg"
pretrained = false
[model]
{model}
[training]
rounds = 1
learning_rate = 0.01
[data]
source = "digits"
limit = 300
[data.partition]
kind = "iid"
devices = 2
"""
NAMED = 'name = "small_cnn"\ninput_shape = [1, 8, 8]\narguments = {width = 4}\n'


def written(tmp_path, model):
    path = tmp_path / "RUN.toml"
    path.write_text(RUN.format(model=model))
    return path


@pytest.fixture
def model_file(tmp_path):
    """Digits' shape; its batch norm is whole."""
    constants = {
        "stem.weight": array(1, 6, 1, 3, 3), "bn.weight": array(2, 6, low=0.5), "b": array(3, 6), "m": array(4, 6),
        "v": array(5, 6, low=0.5), "body.weight": array(6, 8, 6, 3, 3), "bias": array(7, 8),
        "head.weight": array(8, 10, 8), "head.bias": array(9, 10),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "stem.weight"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "bn.weight", "b", "m", "v"], "n"),
        node("Relu", ["n"], "r"),
        node("Conv", ["r", "body.weight", "bias"], "d", kernel_shape=[3, 3]),
        node("GlobalAveragePool", ["d"], "g"),
        node("Flatten", ["g"], "f"),
        node("Gemm", ["f", "head.weight", "head.bias"], "y", transB=1),
    ]
    return save(tmp_path / "digits.onnx", nodes, constants, (1, 8, 8), classes=10)


def test_a_file_is_the_model_and_its_numbers_the_start(tmp_path, model_file):
    given = read_submission(written(tmp_path, f'file = "{model_file.name}"'))
    model = given.spec.model
    assert (model.name, model.input_shape, model.classes, model.file) == ("digits", (1, 8, 8), 10, "")
    assert model.init.startswith("sha256:")
    graph = build(model)
    assert graph.maskable == ("body.weight",)
    assert given.start.keys() == graph.params.keys()
    assert given.fresh == ()
    np.testing.assert_array_equal(given.start["head.weight"], array(8, 10, 8))


def test_the_coordinator_makes_its_first_state_of_the_start(tmp_path, model_file):
    """And a simulation begins with the same; both end at the same bits as their equal beginning says."""
    given = read_submission(written(tmp_path, f'file = "{model_file.name}"'))
    store = Store(tmp_path / "state")
    try:
        assert keep_start(store.directory, given.start) == given.spec.model.init
        run = store.runs.submit(given.spec)
        spec = given.spec
        assert store.runs.get(run).spec["model"]["init"] == spec.model.init
    finally:
        store.close()
    target = tmp_path / "state" / "initial-x.blob"
    Workbench("native", 1).prepare(spec, target)
    state = decode(target.read_bytes())
    for name, values in given.start.items():
        np.testing.assert_array_equal(state.params[name], values)
    after = simulate(spec, create("native"), start=given.start)
    assert (after.params["head.weight"] != given.start["head.weight"]).any()


def test_a_start_that_is_lost_or_damaged_is_said(tmp_path, model_file):
    given = read_submission(written(tmp_path, f'file = "{model_file.name}"'))
    with pytest.raises(ConfigError, match=r"cannot be read .*; submit it again"):
        read_start(tmp_path, given.spec)
    with pytest.raises(ConfigError, match="starts from numbers that are given, and they are not here"):
        simulate(given.spec, create("native"))
    name = keep_start(tmp_path, given.start).removeprefix("sha256:")
    (tmp_path / FOLDER / name).write_bytes(b"else")
    with pytest.raises(ConfigError, match="is damaged on disk"):
        read_start(tmp_path, given.spec)


def test_other_classes_get_a_new_head(tmp_path, model_file):
    given = read_submission(written(tmp_path, f'file = "{model_file.name}"\nclasses = 4'))
    assert given.fresh == ("head.bias", "head.weight")
    assert given.start["head.weight"].shape == (4, 8)
    np.testing.assert_array_equal(given.start["body.weight"], array(6, 8, 6, 3, 3))


def test_a_run_goes_on_from_a_state(tmp_path):
    first = simulate(read_spec(written(tmp_path, NAMED)), create("native"))
    (tmp_path / "first.blob").write_bytes(encode(first, precision="fp32"))
    given = read_submission(written(tmp_path, NAMED + 'init = "first.blob"'))
    for name, values in first.params.items():
        np.testing.assert_array_equal(given.start[name], values)
    other = read_submission(written(tmp_path, NAMED + 'init = "first.blob"\nclasses = 3'))
    assert other.fresh == ("output.bias", "output.weight")
    with pytest.raises(ConfigError, match=r"model\.init: 25 arrays.*Only the last layer may differ"):
        read_submission(written(tmp_path, NAMED.replace("width = 4", "width = 8") + 'init = "first.blob"'))


def test_a_run_goes_on_from_a_run_of_the_coordinator(tmp_path):
    spec = read_spec(written(tmp_path, NAMED))
    params = {name: values + 1 for name, values in build(spec.model).initial_params(3).items()}
    store = Store(tmp_path / "state")
    try:
        run = store.runs.submit(spec)
        state = Payload({"step": 0, "stage": "train", "round": 0}, params)
        with pytest.raises(ConfigError, match="has no model yet"):
            read_submission(written(tmp_path, NAMED + f'init = "run:{run}"'), tmp_path / "state")
        started(store, run, encode(state, precision="fp32"))
    finally:
        store.close()
    given = read_submission(written(tmp_path, NAMED + f'init = "run:{run}"'), tmp_path / "state")
    np.testing.assert_array_equal(given.start["stem.weight"], params["stem.weight"])


def started(store, run, blob):
    store.runs.start(run)
    store.runs.prepared(run, store.blobs.put(blob))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ('file = "none.onnx"', r"none\.onnx: cannot be read"),
        ('file = "none.onnx"\nlayers = [{kind = "relu"}]', "leave layers, graph and arguments away"),
        ('file = "none.onnx"\ninit = "x.blob"', "leave model.init away beside it"),
        ('init = "elsewhere"', 'give "run:ID", "FILE.onnx" or "STATE.blob"'),
        ('init = "none.blob"', r"none\.blob: cannot be read"),
    ],
)
def test_what_cannot_be_started_from_is_refused(model, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        read_submission(written(tmp_path, model))


def test_nobody_but_the_submitter_opens_a_file(tmp_path):
    spec = read_spec(written(tmp_path, NAMED))
    with pytest.raises(ConfigError, match="is read when a run is submitted or simulated"):
        build(replace(spec.model, file="/etc/passwd"))
    with pytest.raises(ConfigError, match="is read when a run is submitted"):
        read_start(tmp_path, replace(spec, model=replace(spec.model, init="../../x.blob")))
