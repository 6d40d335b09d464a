"""Cost models on disk, and measuring one for real."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.planning import cost_model_file, kernel_choice
from tinyfleet.fedcore.planning.cost_model_file import measure, measured_or_shipped, read, save, shipped
from tinyfleet.fedcore.planning.probe import Probe
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.training.engine import StepSettings
from tinyfleet.fedcore.training.levers import Levers


def test_a_boards_own_comes_before_the_shipped_one(tmp_path):
    path = tmp_path / "cost_model.toml"
    assert measured_or_shipped(path, "torch") == shipped("torch")
    own = shipped("torch").at_speed(1.0)
    save(own, path)
    assert read(path) == own == measured_or_shipped(path, "torch")
    with pytest.raises(ConfigError, match="abacus"):
        measured_or_shipped(path, "abacus")


@pytest.mark.slow
def test_the_kernel_choice_is_kept_and_reaches_plans_and_networks(tmp_path, monkeypatch):
    pytest.importorskip("sparse_engine")
    from tinyfleet.fedcore.models.registry import build
    from tinyfleet.fedcore.planning.native_memory import NativeSteps
    from tinyfleet.fedcore.training.registry import create

    monkeypatch.setattr(kernel_choice, "KERNEL_SECONDS", 2.0)
    found = kernel_choice.measure_kernel_choice(lambda *at: None)
    assert found
    path = tmp_path / "cost_model.toml"
    own = msgspec.structs.replace(shipped("native"), kernel_choice=found)
    save(own, path)
    assert read(path) == own

    graph = build(ModelSettings("small_cnn", (3, 32, 32), 10, {}))
    active = {name: int(0.5 * graph.params[name].size) for name in graph.maskable}
    always, never = (dict.fromkeys(found, density) for density in (0.1, 2.0))
    weights = [
        NativeSteps(graph, active, kernel_choice=c).features(16, StepSettings(0.1)).model for c in (always, never)
    ]
    assert weights[0] != weights[1]  # dense kernels keep other copies of the weights
    params = graph.initial_params(0)
    mask = {name: np.arange(params[name].size).reshape(params[name].shape) % 2 == 0 for name in graph.maskable}
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 3, 32, 32), np.float32), rng.integers(0, 10, 16)
    losses = []
    for choice in (always, never):
        engine = create("native", 1, choice)
        engine.load(graph, params, mask)
        losses.append([engine.train_step(x, y, StepSettings(0.05)) for _ in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] != losses[1]  # sums in another order: other kernels ran


@pytest.mark.parametrize("density", ["0.0", '"half"'])
def test_a_kernel_choice_that_is_no_density_is_refused(tmp_path, density):
    path = tmp_path / "cost_model.toml"
    save(shipped("native"), path)
    path.write_text(path.read_text() + f'\n[kernel_choice]\n"8 to 4" = {density}\n')
    with pytest.raises(ConfigError, match="kernel_choice"):
        read(path)


def test_a_damaged_file_says_which_and_why(tmp_path):
    path = tmp_path / "cost_model.toml"
    path.write_text('engine = "torch"\nbyte_model = "much"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"cost_model\.toml"):
        read(path)


def test_another_machines_times_are_in_proportion_to_its_speed():
    here = shipped("torch")
    slow = here.at_speed(here.convolution_gflops / 10)
    assert slow.second_gflop == pytest.approx(10 * here.second_gflop)
    assert (slow.byte_replayed, slow.engine_bytes) == (here.byte_replayed, here.engine_bytes)
    assert here.at_speed(0.0) == here


@pytest.mark.slow
def test_measuring_takes_real_steps(monkeypatch):
    small = ModelSettings("small_cnn", (1, 28, 28), 10, {})
    probes = [
        Probe(small, 8, steps=1),
        Probe(small, 64, steps=1),
        Probe(small, 64, Levers(activation_keep=0.3), steps=1),
    ]
    monkeypatch.setattr(cost_model_file, "standard_probes", lambda engine: probes)
    told = []
    found = measure("torch", "here", 12.3456, lambda what, done, total: told.append((what, done, total)))
    assert told[0] == ("small_cnn, batch 8", 0, 3)
    assert told[-1] == ("", 3, 3)
    assert (found.machine, found.convolution_gflops) == ("here", 12.346)
    assert 5e7 < found.engine_bytes < 1e9
    assert found.second_gflop + found.second_value + found.second_pass > 0
