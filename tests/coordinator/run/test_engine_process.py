"""The engine process: real data, the real engine, a real process."""

from __future__ import annotations

import time

import numpy as np
import psutil
import pytest

from tests.patience import PATIENCE_S
from tinyfleet.coordinator.run.engine_process import EngineFailed, EngineProcess, Evaluated, Prepared
from tinyfleet.fedcore.methods import registry as methods
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.run_spec import DataSettings, ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.sparsity.mask import apply_mask, density, random_mask
from tinyfleet.fedcore.training import registry as engines

pytestmark = pytest.mark.skipif(not engines.available(), reason="no training engine is installed")


@pytest.fixture
def spec(tmp_path):
    """Three classes of 8x8 images that are bright in one third each: easy to learn."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = rng.integers(0, 80, (300, 1, 8, 8))
    for label in range(3):
        x[y == label, :, 2 * label : 2 * label + 2] += 150
    path = tmp_path / "data.npz"
    np.savez(path, x=x.astype(np.uint8), y=y.astype(np.int64))
    return RunSpec(
        method={"name": "fedavg"},
        model=ModelSettings("small_cnn", (1, 8, 8), 3),
        training=TrainingSettings(rounds=1, pretrain_epochs=3, pretrain_learning_rate=0.05),
        data=DataSettings(f"arrays:{path}", public_fraction=0.5, test_fraction=0.3),
    )


@pytest.fixture
def model():
    model = EngineProcess()
    yield model
    model.close()


def answer(model, timeout_s=PATIENCE_S):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        event = model.poll()
        if event is not None:
            return event
        time.sleep(0.01)
    raise AssertionError("no answer")


def test_prepare_and_evaluate(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    assert answer(model) == Prepared(tmp_path / "initial")
    assert psutil.Process(model._child.pid).nice() == min(19, psutil.Process().nice() + 5)
    state = codec.decode((tmp_path / "initial").read_bytes())
    assert (state.meta["step"], state.meta["stage"]) == (0, "train")

    model.evaluate(spec, 4, tmp_path / "initial")
    trained = answer(model)
    assert isinstance(trained, Evaluated)
    assert trained.step == 4
    assert trained.accuracy > 0.6

    # Values under the mask must not count, even where a state carries them.
    graph = methods.problem_of(spec).graph
    counts = dict.fromkeys(graph.maskable, 1)
    mask = random_mask(
        {name: graph.params[name].shape for name in graph.maskable}, counts, np.random.default_rng(0)
    )
    state.mask = mask
    apply_mask(state.params, mask)
    assert density(mask) < 0.1
    (tmp_path / "sparse").write_bytes(codec.encode(state, precision="fp32"))
    model.evaluate(spec, 5, tmp_path / "sparse")
    sparse = answer(model)
    assert isinstance(sparse, Evaluated)
    assert sparse.loss > trained.loss


def test_what_goes_wrong_is_an_answer(model, spec, tmp_path):
    model.evaluate(spec, 0, tmp_path / "missing")
    failed = answer(model)
    assert isinstance(failed, EngineFailed)
    assert "missing" in failed.reason
    bad = type(spec)(method={"name": "fedavgg"}, data=spec.data, model=spec.model)
    model.prepare(bad, tmp_path / "initial")
    failed = answer(model)
    assert isinstance(failed, EngineFailed)
    assert "fedavg" in failed.reason


def test_its_death_is_an_answer_and_it_is_started_again(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    psutil.Process(model._child.pid).kill()
    failed = answer(model)
    assert isinstance(failed, EngineFailed)
    assert "-9" in failed.reason
    model.prepare(spec, tmp_path / "initial")
    assert answer(model) == Prepared(tmp_path / "initial")


def test_closing_ends_the_process(model, spec, tmp_path):
    model.prepare(spec, tmp_path / "initial")
    pid = model._child.pid
    model.close()
    assert not psutil.pid_exists(pid)
    assert model.poll() is None
