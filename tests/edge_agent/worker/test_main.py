from __future__ import annotations

import signal
import subprocess
import sys
import time

import msgspec
import psutil
import pytest
from msgspec.structs import replace

from tests.edge_agent.runs import command, data_settings, events_until, first_state, spec_of, task_blob, write_data
from tests.patience import PATIENCE_S
from tinyfleet.edge_agent.worker.commands import DescribeCommand
from tinyfleet.fedcore.training.registry import available

pytestmark = pytest.mark.skipif(not available(), reason="the worker needs an engine")


@pytest.mark.parametrize("worker", ["warm"], indirect=True)
def test_errors_are_events_and_the_worker_lives_on(tmp_path, worker):
    spec, source = spec_of(), write_data(tmp_path / "data.npz")
    good = command(tmp_path, spec, task_blob(spec, first_state(spec)), source)
    worker.send(replace(good, data={"source": f"arrays:{tmp_path}/none.npz"}))
    event = events_until(worker, "failed", "done", "unfit")[-1]
    assert event["event"] == "unfit"
    assert "none.npz" in event["reason"]
    for part in ({"method": {"name": "fedavgg"}}, {"model": {"name": "acme_net"}}, None):
        lacking = replace(good, engine="abacus") if part is None else replace(good, spec={**good.spec, **part})
        worker.send(lacking)
        event = events_until(worker, "failed", "done", "unfit")[-1]
        assert event["event"] == "unfit"
        assert "is unknown" in event["reason"]
        assert "install that one on this machine too" in event["reason"]
    (tmp_path / "damaged").write_bytes(b"\x00" * 100)
    worker.send(replace(good, blob=str(tmp_path / "damaged")))
    assert events_until(worker, "failed", "done")[-1]["kind"] == "CodecError"
    worker.send(good)
    assert events_until(worker, "done", "failed")[-1]["event"] == "done"


def test_what_libraries_print_stays_out_of_the_events(tmp_path):
    script = (
        "import os, sys, runpy; sys.argv = ['worker', '--policy', 'fresh'];"
        "import tinyfleet.edge_agent.worker.main as w; original = w.describe;"
        "w.describe = lambda c: (print('chatter'), os.write(1, b'noise\\n'), original(c))[2];"
        "w.main()"
    )
    source = write_data(tmp_path / "data.npz")
    order = DescribeCommand("porch", data_settings(source))
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
