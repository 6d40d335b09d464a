"""Tasks as a worker process does them."""

from __future__ import annotations

import weakref

import psutil
import pytest
from msgspec.structs import replace

from tests.edge_agent.runs import command, events_until, first_state, spec_of, task_blob, write_data
from tests.fedcore.training.engines import NAMES, new_engine
from tinyfleet.edge_agent.config import AgentDataSettings
from tinyfleet.edge_agent.worker.commands import TaskDone
from tinyfleet.edge_agent.worker.trainer import Trainer, peak_rss_bytes
from tinyfleet.fedcore.datasets.partition import device_data
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.protocol import results
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.settings import convert
from tinyfleet.fedcore.sparsity.mask import mask_digest
from tinyfleet.fedcore.training import registry
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.registry import available
from tinyfleet.fedcore.training.registry import create as create_engine

pytestmark = pytest.mark.skipif(not available(), reason="the worker needs an engine")


@pytest.mark.parametrize("engine_name", NAMES)
def test_a_task_gives_what_the_method_gives_in_process(tmp_path, worker, engine_name):
    engine = new_engine(engine_name)
    spec, source = spec_of(), write_data(tmp_path / "data.npz")
    state = first_state(spec)
    order = replace(command(tmp_path, spec, task_blob(spec, state), source), engine=engine_name)
    worker.send(order)
    events = events_until(worker, "done")
    assert [event["event"] for event in events[:2]] == ["planned", "training"]
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 5
    done = events[-1]
    assert done["engine"] == engine_name
    assert 0 < done["train_s"] < 60
    assert 20_000_000 < done["peak_rss_bytes"] < 2_000_000_000
    result = decode((tmp_path / "result").read_bytes())
    data = device_data(convert(order.data, AgentDataSettings, "data"), 0, "porch")
    method = create(spec.method, problem_of(spec))
    expected = method.run(method.configure_round(state), engine, data, Control())
    assert result.meta == expected.meta
    for name, values in expected.params.items():
        assert result.params[name].tobytes() == values.tobytes(), name
    assert events_until(worker, "exit")[-1]["code"] == 0, "fresh: one task, then it exits"


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_a_part_of_the_job_is_done_and_weighed_as_such(tmp_path, worker):
    spec, source = spec_of(), write_data(tmp_path / "data.npz")
    order = command(tmp_path, spec, task_blob(spec, first_state(spec)), source)
    samples = []
    for steps in (0, 1):
        worker.send(replace(order, local_steps=steps, levers=Levers(activation_keep=0.5)))
        events = events_until(worker, "done")
        samples.append(decode((tmp_path / "result").read_bytes()).meta["samples"])
        progress = [event for event in events if event["event"] == "progress"]
        assert progress[-1]["total"] == (1 if steps else progress[-1]["done"])
    assert 0 < samples[1] < samples[0]


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_a_warm_worker_stays_and_holds_masks(tmp_path, worker):
    spec, source = spec_of("static", density=0.3), write_data(tmp_path / "data.npz")
    state = first_state(spec)
    worker.send(command(tmp_path, spec, task_blob(spec, state, send_mask=False), source))
    events = events_until(worker, "needs_mask")
    assert events[-1]["digest"] == mask_digest(state.mask)
    worker.send(command(tmp_path, spec, task_blob(spec, state), source))
    assert events_until(worker, "done")[-1]["event"] == "done"
    whole = (tmp_path / "result").read_bytes()
    worker.send(command(tmp_path, spec, task_blob(spec, state, send_mask=False), source))
    assert events_until(worker, "done")[-1]["event"] == "done"
    result = decode((tmp_path / "result").read_bytes(), held={mask_digest(state.mask): state.mask}.get)
    assert (tmp_path / "result").read_bytes() == whole, "a task is a pure function"
    assert mask_digest(result.mask) == mask_digest(state.mask)
    with pytest.raises(Exception, match="not held"):
        decode(whole)  # the mask stayed at home
    worker.process.stdin.close()
    assert events_until(worker, "exit")[-1]["code"] == 0, "it exits when stdin closes"


def test_encoding_is_what_this_file_assumes():
    """A result without its mask names it, and is smaller."""
    state = first_state(spec_of("static", density=0.3))
    assert len(encode(state, precision="fp32", send_mask=False)) < len(encode(state, precision="fp32"))


def test_a_result_is_encoded_when_its_models_are_gone(tmp_path, monkeypatch):
    """A large model's engine, task and encoding together would be more than training takes."""

    engines, seen = [], []

    def make(name, threads, crossovers):
        engine = create_engine(name, threads, crossovers)
        engines.append(weakref.ref(engine))
        return engine

    def encoded(result, task, *settings):
        seen.append((engines[0](), len(task.params), len(result.params)))
        return original(result, task, *settings)

    original = results.encode_result
    monkeypatch.setattr(registry, "create", make)
    monkeypatch.setattr(results, "encode_result", encoded)
    spec, events = spec_of(), []
    order = command(tmp_path, spec, task_blob(spec, first_state(spec)), write_data(tmp_path / "data.npz"))
    Trainer(events.append).run(order)
    assert isinstance(events[-1], TaskDone)
    ((engine, task_arrays, result_arrays),) = seen
    assert (engine, task_arrays) == (None, 0)
    assert result_arrays == len(problem_of(spec).graph.params)


def test_peak_rss_is_the_kernels():
    assert psutil.Process().memory_info().rss // 2 < peak_rss_bytes() < 64 << 30
