"""What is known of the engines: true, light to read, and the only place that knows them by name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fedcore.training.engines import new_engine
from tests.fedcore.training.graphs import batch, masked, residual_graph
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.planning.cost_model_file import shipped
from tinyfleet.fedcore.planning.planner import FORECASTS
from tinyfleet.fedcore.training import registry
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers
from tinyfleet.fedcore.training.native import facts as native_facts
from tinyfleet.fedcore.training.registry import ENGINES, REFERENCE, expected, facts_of

ROOT = Path(__file__).parents[3]
PACKAGES = ("coordinator", "device_profiles", "edge_agent", "export", "fedcore", "tinyfleet")
# Here the words mean something else: the library whose convolutions tell how fast a board is, and labels of results
# that are committed.
OTHERS = ("device_profiles/measuring/", "tinyfleet/figures/")
NAMED = re.compile(r"engine '(native|torch)|(native|torch)(-cuda)?")


def own_files() -> list[Path]:
    """Of our packages, each once: those below ``tinyfleet`` are links to the others."""
    files = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "training" not in path.parts
    ]
    return [path for path in files if not any(parent.is_symlink() for parent in path.parents)]


def test_engines_are_named_in_one_place_only():
    named = []
    for path in own_files():
        place = path.relative_to(ROOT).as_posix()
        if not place.startswith(OTHERS):
            constants = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
            named += [
                f"{place}:{node.lineno}: {node.value!r}"
                for node in constants
                if isinstance(node.value, str) and NAMED.fullmatch(node.value)
            ]
    assert len(own_files()) > 200
    assert not named, "ask the engine's facts"


@pytest.mark.parametrize("facts", ENGINES, ids=lambda facts: facts.name)
def test_every_engine_can_be_planned_for(facts):
    assert facts.memory_model in FORECASTS
    assert shipped(facts.name).engine == facts.cost_model
    assert facts_of(facts.name) is facts


@pytest.mark.parametrize("facts", [facts for facts in ENGINES if facts.automatic], ids=lambda facts: facts.name)
def test_an_engine_is_what_its_facts_say(facts):
    engine, graph = new_engine(facts.name), residual_graph()
    assert engine.name == facts.name
    assert facts.looks_installed()
    x, y = batch(graph, 8)
    losses = []
    for recompute in (0, 2):  # what cannot be computed again is kept: the result is the same
        engine.load(graph, graph.initial_params(0), masked(graph, 0.3))
        losses.append(engine.train_step(x, y, StepSettings(0.1, levers=Levers(recompute=recompute))))
    assert losses[0] == losses[1]


def test_the_supervisor_reads_facts_without_numpy_or_an_engine():
    code = (
        "import sys\n"
        "from tinyfleet.fedcore.training.registry import ENGINES, expected\n"
        "from tinyfleet.fedcore.planning.plan import Plan\n"
        "print(expected('auto').warm_bytes > 0, len(ENGINES) > 1)\n"
        "print(*(name for name in ('numpy', 'torch', 'sparse_engine') if name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout.splitlines() == ["True True", ""]


def test_what_is_expected_is_what_lies_on_the_disk(monkeypatch):
    monkeypatch.setattr(native_facts.importlib.util, "find_spec", lambda name: None)
    assert expected("auto") is REFERENCE, "nothing is found"
    assert expected("native").name == "native", "a name stands for itself"
    with pytest.raises(ConfigError, match="'abacus' is unknown"):
        expected("abacus")


def test_one_line_adds_an_engine(monkeypatch):
    from dataclasses import replace

    made = []
    added = replace(REFERENCE, name="abacus", fault=lambda: "", create=lambda *asked: made.append(asked))
    monkeypatch.setattr(registry, "ENGINES", (added, *ENGINES))
    assert registry.available()[0] == "abacus" == registry.preferred()
    registry.create("auto", 3)
    assert made == [(3, {})]
