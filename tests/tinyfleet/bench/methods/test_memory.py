from __future__ import annotations

import sys

import msgspec
import pytest

from tinyfleet.bench.methods import memory
from tinyfleet.bench.methods.memory import measure, measured_spec
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.methods.registry import create, problem_of
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec, TrainingSettings
from tinyfleet.fedcore.training.registry import create as create_engine

SPEC = RunSpec(
    method={"name": "static", "density": 0.1},
    model=ModelSettings(input_shape=(1, 28, 28)),
    training=TrainingSettings(rounds=12, batch=32),
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_a_larger_batch_takes_more():
    large = msgspec.structs.replace(SPEC.training, batch=256)
    few, many = (
        measure(msgspec.structs.replace(SPEC, training=training), "lightest") for training in (SPEC.training, large)
    )
    for measured in (few, many):
        assert 50 < measured.baseline_mb < measured.peak_mb < 2000
    # 224 more inputs of the stem's batch norm alone: 224 * 16 * 14 * 14 * 4 bytes.
    assert many.peak_mb - many.baseline_mb > few.peak_mb - few.baseline_mb + 2.8


def test_the_heaviest_task_is_the_one_that_adjusts_the_mask():
    method_settings = {"name": "fedtiny", "density": 0.1, "interval": 5, "candidates": 2, "statistics_passes": 1}
    spec = measured_spec(msgspec.structs.replace(SPEC, method=method_settings))
    method, data = create(spec.method, problem_of(spec)), memory._device(spec)
    state = memory._first_training_state(method, create_engine(), data)
    assert memory._task(method, state, "heaviest", 64).meta["grow"]
    assert memory._task(method, state, "heaviest", 64).meta["round"] == 5
    assert not memory._task(method, state, "lightest", 64).meta["grow"]


def test_seed_and_data_have_no_share_in_it():
    other = msgspec.structs.replace(SPEC, seed=3, data=msgspec.structs.replace(SPEC.data, source="digits"))
    assert measured_spec(other) == measured_spec(SPEC)


@pytest.mark.slow
def test_a_failure_says_why():
    with pytest.raises(DataError, match="density"):
        measure(msgspec.structs.replace(SPEC, method={"name": "static", "density": 7.0}), "lightest")
