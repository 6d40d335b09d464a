"""What pruned activation caches save: resident memory of a training step, measured in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("torch")

STEP = """
import json, sys
from pathlib import Path
import numpy as np
from fedcore.models.registry import build
from fedcore.run_spec import ModelSettings
from fedcore.sparsity.allocation import erk_counts
from fedcore.sparsity.mask import random_mask
from fedcore.training.allocator import return_freed_memory
from fedcore.training.engine import StepSettings
from fedcore.training.torch_engine import TorchEngine

norm, keep, cache = sys.argv[1], float(sys.argv[2]), sys.argv[3]
graph = build(ModelSettings("resnet18", (3, 32, 32), 10, {"norm": norm}))
engine = TorchEngine()
return_freed_memory()
shapes = {name: graph.params[name].shape for name in graph.maskable}
mask = random_mask(shapes, erk_counts(shapes, 0.05), np.random.default_rng(0))
engine.load(graph, graph.initial_params(0), mask)
rng = np.random.default_rng(0)
x, y = rng.standard_normal((64, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 64)
settings = StepSettings(0.01, keep=keep, cache=cache)
engine.train_step(x[:2], y[:2], settings)  # libraries are loaded and threads started

def status(field):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(field))
    return int(line.split()[1]) / 1024

before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
for _ in range(2):
    engine.train_step(x, y, settings)
print(json.dumps(status("VmHWM") - before))
"""


def step_memory(norm: str, keep: float, cache: str = "fp32") -> float:
    """Peak RSS of training steps above the loaded model, in MB."""
    command = [sys.executable, "-c", STEP, norm, str(keep), cache]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=110)
    return float(json.loads(done.stdout))


@pytest.mark.slow
def test_resnet18_at_batch_64_takes_a_third_less():
    exact, pruned, half = step_memory("nsconv", 1.0), step_memory("nsconv", 0.3), step_memory("nsconv", 0.3, "fp16")
    assert pruned <= 0.65 * exact, f"{pruned:.0f} MB against {exact:.0f} MB"
    assert half < pruned


@pytest.mark.slow
def test_pruned_and_normalised_takes_far_less_than_batch_norm():
    """FedMef's layers against FedTiny's and FedDST's, in one comparison."""
    pruned, batch_norm = step_memory("nsconv", 0.3), step_memory("batch", 1.0)
    assert pruned <= (1 - 0.285) * batch_norm, f"{pruned:.0f} MB against {batch_norm:.0f} MB"
