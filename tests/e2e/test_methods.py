"""Methods whose devices keep or send masks of their own, over a real broker: equal to the simulation to the bit."""

from __future__ import annotations

import msgspec
import pytest

from tests.e2e.conftest import spec_of
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import AugmentSettings, ServerSettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import simulate

METHODS = {
    "feddst": {"name": "feddst", "interval": 1, "stop": 4},
    "lotteryfl": {"name": "lotteryfl", "accuracy_threshold": 0.05},
    "prunefl": {"name": "prunefl", "interval": 1},
    "fedrts": {"name": "fedrts", "interval": 1, "stop": 4},
    "fl_pqsu": {"name": "fl_pqsu"},
    "fedmef": {"name": "fedmef", "interval": 1, "stop": 4},
    "tinyfleet": {"name": "tinyfleet", "interval": 1, "stop": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_live_run_equals_the_simulated_one(start, name):
    norm = "nsconv" if name in {"fedmef", "tinyfleet"} else "batch"
    base = spec_of(2, 3)
    model = msgspec.structs.replace(base.model, arguments=base.model.arguments | {"norm": norm})
    spec = msgspec.structs.replace(base, method=METHODS[name] | {"density": 0.2}, model=model)
    running = start(spec, 2, broker="embedded")
    run = running.store.runs.submit(spec)
    row = running.until("the run's end", lambda: running.ended(run), 100.0)
    assert (row.state, row.reason) == ("finished", "")
    live = decode(running.store.state_blob(run).read_bytes())
    assert encode(live, precision="fp32") == encode(simulate(spec, create()), precision="fp32")
    assert all(step.results == 2 for step in running.store.steps.of(run))


TRAININGS = {
    "averaged": (
        "averaged",
        {"schedule": "cosine", "warmup_rounds": 1, "server": ServerSettings("fedadam"), "average_rounds": 2},
    ),
    "best": (
        "best",
        {
            "optimiser": "adamw",
            "learning_rate": 0.005,
            "clip_gradient": 1.0,
            "proximal": 0.1,
            "augment": AugmentSettings(crop=1, cutout=2, colour=0.1, shift=1, time_mask=2),
            "kernels": "shipped",
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_live_run_trains_and_ends_as_the_simulated_one(start, name):
    result, settings = TRAININGS[name]
    base = spec_of(2, 3)
    method = {"name": "tinyfleet", "interval": 1, "stop": 4, "density": 0.2}
    training = msgspec.structs.replace(base.training, **settings)
    spec = msgspec.structs.replace(base, method=method, training=training, result=result)
    running = start(spec, 2, broker="embedded")
    run = running.store.runs.submit(spec)
    row = running.until("the run's end", lambda: running.ended(run), 100.0)
    assert (row.state, row.reason, row.result) == ("finished", "", result)
    live = decode(running.store.state_blob(run).read_bytes())
    assert encode(live, precision="fp32") == encode(simulate(spec, create()), precision="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "static", "fedtiny", "fedmef", "tinyfleet"])
def test_a_live_run_without_public_data_equals_the_simulated_one(start, name):
    spec = spec_of(2, 4)
    method = {**METHODS.get(name, {"name": name}), "pretrained": False}
    data = msgspec.structs.replace(spec.data, public_fraction=0.0)
    spec = msgspec.structs.replace(spec, method=method, data=data)
    running = start(spec, 2, broker="embedded")
    run = running.store.runs.submit(spec)
    row = running.until("the run's end", lambda: running.ended(run), 120.0)
    assert (row.state, row.reason) == ("finished", "")
    assert running.store.steps.of(run)[0].stage == "input_statistics"
    live = decode(running.store.state_blob(run).read_bytes())
    assert encode(live, precision="fp32") == encode(simulate(spec, create()), precision="fp32")
