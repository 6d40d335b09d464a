"""``tinyfleet demo`` from the command line to files that load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from tests.e2e.demo_document import Document
from tests.patience import PATIENCE_S

COMMAND = [sys.executable, "-c", "from tinyfleet.cli import main; main()", "demo"]


def run_demo(
    out: Path, *arguments: str, timeout: float = PATIENCE_S
) -> tuple[subprocess.CompletedProcess[str], Document]:
    ran = subprocess.run(
        [*COMMAND, "--out", str(out), "--json", str(out / "demo.json"), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran, msgspec.json.decode((out / "demo.json").read_bytes(), type=Document)


def check_files(document: Document, out: Path) -> None:
    import onnxruntime

    kinds = {(row.format.split("-")[0], row.precision) for row in document.exports}
    assert kinds >= {("onnx", "fp32"), ("tflite", "fp32"), ("tflite", "fp16"), ("tflite", "int8")}
    for row in document.exports:
        path = Path(row.path)
        assert path.is_relative_to(out)
        assert path.stat().st_size == row.file_bytes
        if path.suffix == ".onnx":
            session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            shape = [size if isinstance(size, int) else 1 for size in session.get_inputs()[0].shape]
            (logits,) = session.run(None, {session.get_inputs()[0].name: np.zeros(shape, np.float32)})
            assert np.isfinite(logits).all()
        if row.precision == "fp32":
            assert row.max_rel_error < 1e-4
            assert row.argmax_agreement == 1.0


@pytest.mark.slow
def test_quick_demo(tmp_path):
    ran, document = run_demo(tmp_path / "out", "--quick", "--data", "digits", "--agents", "2", "--rounds", "2")
    assert document.method == "tinyfleet"
    assert document.rounds == 2
    assert document.density <= 0.055
    assert [agent.name for agent in document.agents] == ["agent-0", "agent-1"]
    assert document.bytes.up_per_device_round < document.bytes.dense_up_per_device_round
    for agent in document.agents:
        assert 5.0 < agent.idle_rss_mb < 30.0
        assert agent.peak_rss_mb > agent.idle_rss_mb
    assert document.coordinator.idle_rss_mb < 80.0
    check_files(document, tmp_path / "out")
    assert "accuracy, held-out test data" in ran.stdout
    assert "<svg" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "fleet").exists()
    # A second demo into the same place forgets the first.
    assert msgspec.json.decode((tmp_path / "out" / "demo.json").read_bytes())["losses"] == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_full_demo(tmp_path):
    """The acceptance run: tiny within 3 points of dense, overhead and memory within their limits."""
    _, document = run_demo(tmp_path / "out", timeout=290.0)
    assert document.density <= 0.0505
    assert document.accuracy.tiny >= document.accuracy.dense - 0.03
    assert document.duration_s < 240.0
    assert len(document.agents) == 4
    assert all(agent.idle_rss_mb < 30.0 for agent in document.agents)
    assert document.coordinator.idle_rss_mb < 80.0
    assert document.round_overhead_s.median < 1.0
    assert document.bytes.up_per_device_round < document.bytes.dense_up_per_device_round / 3
    check_files(document, tmp_path / "out")
    for row in document.exports:
        assert row.argmax_agreement > 0.97


def test_unknown_choices_are_one_line():
    for arguments, word in (
        (["--method", "fedtinny"], "fedtiny"),
        (["--broker", "rabbit"], "mosquitto"),
        (["--data", "mnist6k"], "mnist5k"),
    ):
        ran = subprocess.run(
            [*COMMAND, "--quick", *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert ran.returncode != 0
        assert word in ran.stderr
        assert "Traceback" not in ran.stderr


def test_ctrl_c_leaves_no_process(tmp_path):
    """Even where it ignores SIGINT from birth, as a background job does."""
    out = tmp_path / "out"
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *COMMAND]
    with subprocess.Popen(
        [*ignoring, "--out", str(out), "--data", "digits", "--agents", "2", "--broker", "embedded"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        assert "start" in demo.stdout.readline(), "all of the fleet's processes have been started"
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) >= 3
        os.kill(demo.pid, signal.SIGINT)
        output, _ = demo.communicate()
    assert demo.returncode == 130
    assert "stopped" in output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not alive
