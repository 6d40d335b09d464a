"""Which kernels a task is trained with: those that its board measured as its fastest, unless the run fixes them."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from tests.edge_agent.runs import command, events_until, first_state, spec_of, task_blob, write_data
from tinyfleet.fedcore.planning.cost_model_file import save, shipped

pytest.importorskip("sparse_engine")


def dense_everywhere():
    """A board whose dense kernels are faster at every density and shape of the small model."""
    from sparse_engine.kernels.kernel_choice import distinct_convolutions
    from tinyfleet.fedcore.models.registry import build
    from tinyfleet.fedcore.training.native.model import model_of

    return dict.fromkeys(distinct_convolutions(model_of(build(spec_of().model))), 0.01)


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_a_run_may_fix_the_kernels(tmp_path, worker):
    path = tmp_path / "cost_model.toml"
    save(msgspec.structs.replace(shipped("native"), kernel_choice=dense_everywhere()), path)
    spec, source = spec_of("static", density=0.3), write_data(tmp_path / "data.npz")
    fixed = replace(spec, training=replace(spec.training, kernels="shipped"))
    blob = task_blob(spec, first_state(spec))
    results = {}
    for name, chosen, own in (("nothing measured", spec, ""), ("measured", spec, path), ("fixed", fixed, path)):
        order = replace(command(tmp_path, chosen, blob, source), engine="native", cost_model=str(own))
        worker.send(order)
        assert events_until(worker, "done")[-1]["event"] == "done"
        results[name] = (tmp_path / "result").read_bytes()
    assert results["measured"] != results["nothing measured"], "both kernels round alike: this shows nothing"
    assert results["fixed"] == results["nothing measured"]


def test_a_damaged_measurement_is_as_none(tmp_path, caplog):
    from tinyfleet.fedcore.planning.cost_model_file import measured_or_shipped

    path = tmp_path / "cost_model.toml"
    for damage in (b"", b"\xff\xfe", b"engine = 3", b"[["):
        path.write_bytes(damage)
        caplog.clear()
        assert measured_or_shipped(path, "native") == shipped("native")
        assert "cost_model.toml is passed over" in caplog.text
