"""A board trains a model that nothing on it knows by name: the run brings its graph."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.edge_agent.runs import command, events_until, first_state, spec_of, task_blob, write_data
from tinyfleet.fedcore.models.registry import build, names, settled
from tinyfleet.fedcore.protocol.codec import decode

pytest.importorskip("sparse_engine")

LAYERS = [
    {"kind": "conv", "out": 8, "kernel": 5, "stride": 2},
    {"kind": "batch_norm"},
    {"kind": "relu6", "name": "fork"},
    {"kind": "conv", "out": 8, "kernel": 3},
    {"kind": "add", "inputs": ["fork", "conv2"]},
    {"kind": "max_pool", "kernel": 2},
    {"kind": "flatten"},
    {"kind": "linear", "out": 3},
]


def unnamed():
    spec = spec_of("static", density=0.5)
    return replace(spec, model=settled(replace(spec.model, name="porch", layers=LAYERS)))


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_the_worker_of_an_agent_trains_it(tmp_path, worker):
    spec = unnamed()
    assert "porch" not in names()
    state = first_state(spec)
    worker.send(command(tmp_path, spec, task_blob(spec, state), write_data(tmp_path / "data.npz")))
    assert events_until(worker, "done")[-1]["event"] == "done"
    result = decode((tmp_path / "result").read_bytes(), held=lambda digest: state.mask)
    assert result.params.keys() == build(spec.model).params.keys() == state.params.keys()
    assert (result.params["conv2.weight"] != state.params["conv2.weight"]).any()


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_a_kind_that_the_board_is_too_old_for_fails_the_task_by_name(tmp_path, worker):
    spec = unnamed()
    blob = task_blob(spec, first_state(spec))
    nodes = [dict(node, op="warp") if node["name"] == "fork" else node for node in spec.model.graph["nodes"]]
    newer = replace(spec, model=replace(spec.model, graph=spec.model.graph | {"nodes": nodes}))
    worker.send(command(tmp_path, newer, blob, write_data(tmp_path / "data.npz")))
    end = events_until(worker, "done")[-1]
    assert end["event"] != "done"
    assert "layer 'fork' is of kind 'warp', which this version of tinyfleet does not know" in end["reason"]
