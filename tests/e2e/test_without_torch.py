"""Everything a newcomer runs, where importing torch raises: in each of the fleet's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.e2e.demo_document import Document
from tests.e2e.test_demo import check_files
from tinyfleet.fedcore.training.native.facts import fault

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(fault()), reason="sparse_engine is not installed"),
]

# Python runs it first in every process, and importing raises from then on.
BLOCK = """
import sys
for name in ("torch", "pandas", "scipy", "sklearn"):
    sys.modules[name] = None
"""


@pytest.fixture
def run(tmp_path, pytestconfig):
    """Run the command line in a process that has no torch, nor have its children."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK)
    path = [str(tmp_path / "block"), str(pytestconfig.rootpath), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}

    def call(*arguments: object) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", "from tinyfleet.cli import main; main()", *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    blocked = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, capture_output=True, check=False
    )
    assert b"ModuleNotFoundError" in blocked.stderr
    return call


def test_the_demo(run, tmp_path):
    out = tmp_path / "out"
    run("demo", "--quick", "--out", out, "--json", out / "demo.json")
    document = msgspec.json.decode((out / "demo.json").read_bytes(), type=Document)
    assert {agent.engine for agent in document.agents} == {"native"}
    check_files(document, out)
    assert {row.runtime for row in document.exports} >= {"onnxruntime", "ai-edge-litert", "sparse-engine"}
    assert "</svg>" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", ["fedavg-digits", "fedtiny-mnist", "tinyfleet-mnist"])
def test_an_example_is_simulated_and_exported(run, tmp_path, pytestconfig, example):
    spec = Path(pytestconfig.rootpath, "examples", f"{example}.toml")
    run("simulate", spec, "--out", tmp_path / "state.blob")
    run("export", "--state-blob", tmp_path / "state.blob", "--spec", spec, "--out", tmp_path / "files")
    suffixes = {path.suffix for path in (tmp_path / "files").iterdir()}
    assert suffixes >= {".onnx", ".tflite", ".tfse"}


def test_the_doctor_says_what_is_missing(run):
    assert run("doctor").rstrip().endswith("ready")
