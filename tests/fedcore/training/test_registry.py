"""Which engine a name stands for, and what is said where it is not there."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from tests.fedcore.training.engines import MISSING
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.training import registry
from tinyfleet.fedcore.training.engine_facts import NO_ROOM
from tinyfleet.fedcore.training.native import facts as native_facts
from tinyfleet.fedcore.training.torch import facts as torch_facts


@pytest.fixture
def installed(monkeypatch):
    """Pretend that just these engines are installed."""

    def pretend(*names):
        monkeypatch.setattr(native_facts, "fault", lambda: "" if "native" in names else "is not installed")
        monkeypatch.setattr(
            torch_facts.importlib.util,
            "find_spec",
            lambda name: object() if name in names and name == "torch" else None,
        )

    return pretend


@pytest.mark.parametrize(
    ("names", "found"),
    [(("native", "torch"), ("native", "torch")), (("torch",), ("torch",)), (("native",), ("native",)), ((), ())],
)
def test_the_native_engine_is_preferred(installed, names, found):
    installed(*names)
    assert registry.available() == found
    assert registry.preferred("torch-cuda") == "torch-cuda", "a name stands for itself"
    if found:
        assert registry.preferred() == found[0]


def test_what_is_missing_is_named_with_its_remedy(installed):
    installed()
    with pytest.raises(ConfigError, match=r"sparse_engine.*tinyfleet\[torch\]"):
        registry.create()
    with pytest.raises(ConfigError, match=r"pip install \./sparse_engine"):
        registry.create("native")
    with pytest.raises(ConfigError, match="use engine 'native'"):
        registry.create("torch")
    with pytest.raises(ConfigError, match="choose from native, torch, torch-cuda"):
        registry.create("tensorflow")


def test_what_is_required_is_looked_for_without_being_loaded(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # an import fails
    installed("torch")
    for name in ("torch", "torch-cuda", "auto"):
        registry.require(name)
    with pytest.raises(ConfigError, match=r"'native' is not installed.*engine 'torch'"):
        registry.require("native")


@pytest.mark.parametrize("reason", NO_ROOM)
def test_no_room_for_the_engine_is_no_missing_engine(monkeypatch, reason):
    class Full:
        def find_spec(self, name, path=None, target=None):
            if name == "sparse_engine":
                raise ImportError(f"libstdc++.so.6: {reason}")

    monkeypatch.delitem(sys.modules, "sparse_engine", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Full(), *sys.meta_path])
    with pytest.raises(MemoryError, match=reason):
        native_facts.fault.__wrapped__()


@pytest.mark.skipif(bool(MISSING["torch"]), reason="torch is not installed")
def test_torch_takes_over_with_one_line_that_says_how_to_change_that(installed, caplog, monkeypatch):
    monkeypatch.setattr(native_facts, "fault", lambda: "is not installed")
    with caplog.at_level(logging.WARNING):
        assert registry.create().name == "torch"
    (record,) = caplog.records
    assert "pip install ./sparse_engine" in record.getMessage()
    caplog.clear()
    registry.create("torch")
    assert not caplog.records, "torch was asked for"


WITHOUT_TORCH = """
import sys
import numpy as np
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.registry import create
from tests.fedcore.training.graphs import batch, masked, residual_graph
graph = residual_graph()
engine = create("native")
engine.load(graph, graph.initial_params(0), masked(graph, 0.3))
x, y = batch(graph, 8)
engine.train_step(x, y, StepSettings(0.1, 0.9))
engine.update_statistics(x)
engine.evaluate(x, y)
engine.top_gradients(x, y, {"hidden.weight": 4})
engine.dense_gradients(x, y, ["hidden.weight"])
print("torch" in sys.modules)
"""


@pytest.mark.skipif(bool(MISSING["native"]), reason="sparse_engine is not installed")
def test_the_native_engine_trains_without_torch_in_the_process():
    path = [entry for entry in sys.path if entry]
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path[:0] = {path!r}\n{WITHOUT_TORCH}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "False"
