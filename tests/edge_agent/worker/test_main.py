from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref

import msgspec
import numpy as np
import psutil
import pytest

from tests.edge_agent.runs import command, first_state, spec_of, task_blob, write_data
from tests.fedcore.training.engines import NAMES, new_engine
from tests.patience import PATIENCE_S
from tinyfleet.edge_agent.worker.main import is_allocation_failure, peak_rss_bytes
from tinyfleet.edge_agent.worker.masks import KEPT_MASKS, MaskStore
from tinyfleet.fedcore.child import Child
from tinyfleet.fedcore.datasets.partition import device_data
from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.settings import convert
from tinyfleet.fedcore.sparsity.mask import mask_digest
from tinyfleet.fedcore.training.registry import available
from tinyfleet.fedcore.training.registry import create as create_engine

pytestmark = pytest.mark.skipif(not available(), reason="the worker needs an engine")


@pytest.fixture
def worker(request):
    policy = getattr(request, "param", "fresh")
    child = Child("tinyfleet.edge_agent.worker.main", ["--policy", policy, "--parent", str(os.getpid())])
    yield child
    child.kill()


def events_until(child, *last, timeout=PATIENCE_S):
    events, deadline = [], time.monotonic() + timeout
    while not events or events[-1]["event"] not in (*last, "exit"):
        event = child.receive(max(0.01, deadline - time.monotonic()))
        assert event is not None, f"nothing after {events}"
        events.append(event)
    return events


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_a_part_of_the_job_is_done_and_weighed_as_such(tmp_path, worker):
    spec, source = spec_of(), write_data(tmp_path / "data.npz")
    order = command(tmp_path, spec, task_blob(spec, first_state(spec)), source)
    samples = []
    for steps in (0, 1):
        worker.send({**order, "steps": steps, "levers": {"activation_keep": 0.5}})
        events = events_until(worker, "done")
        samples.append(decode((tmp_path / "result").read_bytes()).meta["samples"])
        progress = [event for event in events if event["event"] == "progress"]
        assert progress[-1]["total"] == (1 if steps else progress[-1]["done"])
    assert 0 < samples[1] < samples[0]


@pytest.mark.parametrize("engine_name", NAMES)
def test_a_task_gives_what_the_method_gives_in_process(tmp_path, worker, engine_name):
    engine = new_engine(engine_name)
    spec, source = spec_of(), write_data(tmp_path / "data.npz")
    state = first_state(spec)
    order = {**command(tmp_path, spec, task_blob(spec, state), source), "engine": engine_name}
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
    from tinyfleet.edge_agent.config import AgentDataSettings

    data = device_data(convert(order["data"], AgentDataSettings, "data"), 0, "porch")
    method = create(spec.method, problem_of(spec))
    expected = method.run(method.configure_round(state), engine, data, Control())
    assert result.meta == expected.meta
    for name, values in expected.params.items():
        assert result.params[name].tobytes() == values.tobytes(), name
    assert events_until(worker, "exit")[-1]["code"] == 0, "fresh: one task, then it exits"


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


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_errors_are_events_and_the_worker_lives_on(tmp_path, worker):
    spec, source = spec_of(), write_data(tmp_path / "data.npz")
    good = command(tmp_path, spec, task_blob(spec, first_state(spec)), source)
    bad = [
        ({"data": {"source": f"arrays:{tmp_path}/none.npz"}}, "DataError", "none.npz"),
        ({"engine": "abacus"}, "ConfigError", "abacus"),
    ]
    for changes, kind, words in bad:
        worker.send({**good, **changes})
        event = events_until(worker, "failed", "done")[-1]
        assert (event["event"], event["kind"]) == ("failed", kind)
        assert words in event["reason"]
    for part in ({"method": {"name": "fedavgg"}}, {"model": {"name": "acme_net"}}):
        worker.send({**good, "spec": {**good["spec"], **part}})
        event = events_until(worker, "failed", "done", "unavailable")[-1]
        assert event["event"] == "unavailable"
        assert "is unknown" in event["reason"]
        assert "install that one on this machine too" in event["reason"]
    (tmp_path / "damaged").write_bytes(b"\x00" * 100)
    worker.send({**good, "blob": str(tmp_path / "damaged")})
    assert events_until(worker, "failed", "done")[-1]["kind"] == "CodecError"
    worker.send(good)
    assert events_until(worker, "done", "failed")[-1]["event"] == "done"


def test_what_libraries_print_stays_out_of_the_events(tmp_path):
    script = (
        "import os, sys, runpy; sys.argv = ['worker', '--policy', 'fresh'];"
        "import tinyfleet.edge_agent.worker.main as w; original = w.Trainer.describe;"
        "w.Trainer.describe = lambda self, c: (print('chatter'), os.write(1, b'noise\\n'), original(self, c));"
        "w.main()"
    )
    source = write_data(tmp_path / "data.npz")
    order = {
        "cmd": "describe",
        "device": "porch",
        "data": {"source": source, "public_fraction": 0.0, "test_fraction": 0.0},
    }
    done = subprocess.run(
        [sys.executable, "-c", script], input=msgspec.json.encode(order) + b"\n", capture_output=True, check=True
    )
    lines = done.stdout.splitlines()
    assert [msgspec.json.decode(line)["event"] for line in lines] == ["described"]
    assert b"chatter" in done.stderr
    assert b"noise" in done.stderr
    described = msgspec.json.decode(lines[0])
    assert described["samples"] == 80
    assert described["engines"] == list(available())


PARENT = """
import os, signal, sys
from tinyfleet.fedcore.child import Child
child = Child("tinyfleet.edge_agent.worker.main", ["--policy", "warm", "--parent", str(os.getpid())])
sys.stdout.write(f"{child.pid}\\n"); sys.stdout.flush()
signal.pause()
"""


def test_a_worker_dies_with_its_supervisor():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        worker = psutil.Process(pid)
        deadline = time.monotonic() + PATIENCE_S
        while "tinyfleet.edge_agent.worker.main" not in " ".join(worker.cmdline()) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)
    gone, _ = psutil.wait_procs([worker], timeout=PATIENCE_S)
    assert gone or worker.status() == psutil.STATUS_ZOMBIE


def test_a_worker_whose_supervisor_is_gone_does_not_start():
    done = subprocess.run(
        [sys.executable, "-m", "tinyfleet.edge_agent.worker.main", "--parent", "1"],
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment: Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_which_errors_mean_memory(error, expected):
    assert is_allocation_failure(error) is expected


def test_peak_rss_is_the_kernels():
    assert psutil.Process().memory_info().rss // 2 < peak_rss_bytes() < 64 << 30


def test_masks_are_kept_by_digest_and_few(tmp_path):
    store, rng = MaskStore(tmp_path / "m"), np.random.default_rng(0)
    masks = [{"a.weight": rng.random((5, 3, 3)) < 0.5, "b.weight": rng.random((7, 2)) < 0.5} for _ in range(5)]
    digests = [store.put(mask) for mask in masks]
    assert len(list((tmp_path / "m").iterdir())) == KEPT_MASKS
    newest = store.get(digests[-1])
    assert mask_digest(newest) == digests[-1]
    assert {name: entries.shape for name, entries in newest.items()} == {"a.weight": (5, 3, 3), "b.weight": (7, 2)}
    assert store.get(digests[0]) is None
    assert store.get("../../etc/passwd") is None
    path = tmp_path / "m" / f"{digests[-1]}.mask"
    path.write_bytes(path.read_bytes()[:-20])
    assert store.get(digests[-1]) is None


def test_a_mask_file_with_other_content_is_not_held(tmp_path):
    store = MaskStore(tmp_path)
    digest = store.put({"a": np.array([True, False])})
    other = store.put({"a": np.array([False, True])})
    (tmp_path / f"{other}.mask").replace(tmp_path / f"{digest}.mask")
    assert store.get(digest) is None


def test_encoding_is_what_this_file_assumes():
    """A result without its mask names it, and is smaller."""
    state = first_state(spec_of("static", density=0.3))
    assert len(encode(state, precision="fp32", send_mask=False)) < len(encode(state, precision="fp32"))


def test_a_result_is_encoded_when_its_models_are_gone(tmp_path, monkeypatch):
    """A large model's engine, task and encoding together would be more than training takes."""
    from tinyfleet.edge_agent.worker.main import TaskCommand, Trainer
    from tinyfleet.fedcore.protocol import results
    from tinyfleet.fedcore.training import registry

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
    Trainer(events.append).run(convert({k: v for k, v in order.items() if k != "cmd"}, TaskCommand, "command"))
    assert events[-1]["event"] == "done"
    ((engine, task_arrays, result_arrays),) = seen
    assert (engine, task_arrays) == (None, 0)
    assert result_arrays == len(problem_of(spec).graph.params)
