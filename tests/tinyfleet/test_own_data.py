"""Data of one's own in a run: what fits trains, what does not is refused in words."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from tinyfleet.cli.app import app
from tinyfleet.coordinator.run.engine_child import Workbench
from tinyfleet.demo.spec import demo_spec
from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.run_spec import DataSettings, ModelSettings, PartitionSettings
from tinyfleet.fedcore.training.registry import create
from tinyfleet.simulation import Simulation


def spec_of(tmp_path, x, y, test_fraction=0.2, classes=4):
    np.savez(tmp_path / "d.npz", x=x, y=y)
    spec = demo_spec("fedavg", 1, 1.0, data="digits", limit=300)
    return msgspec.structs.replace(
        spec,
        model=ModelSettings("small_cnn", x.shape[1:], classes),
        data=DataSettings(
            source=f"arrays:{tmp_path / 'd.npz'}",
            public_fraction=0.2,
            test_fraction=test_fraction,
            partition=PartitionSettings("iid", devices=2),
        ),
    )


def samples(classes=4):
    y = np.arange(120) % classes
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(0, 10, (120, 1, 8, 8)) + y[:, None, None, None] * 60 + 20, 0, 255).astype(np.uint8), y


def test_of_no_test_data_no_accuracy_is_told(tmp_path):
    simulation = Simulation(spec_of(tmp_path, *samples(), test_fraction=0.0), create())
    record = simulation.step()
    assert record.loss is not None
    assert (record.test_accuracy, record.test_loss) == (None, None)


def test_labels_that_count_from_one_are_refused_before_training(tmp_path):
    x, y = samples()
    spec = spec_of(tmp_path, x, y + 1)
    with pytest.raises(DataError, match="labels count from 0"):
        Simulation(spec, create())
    with pytest.raises(DataError, match="labels count from 0"):
        Workbench("auto", 1).prepare(spec, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_samples_of_another_shape_are_refused_before_training(tmp_path):
    x, y = samples()
    spec = spec_of(tmp_path, x, y)
    Simulation(spec, create())
    # Also the source is read again, since its file has changed.
    np.savez(tmp_path / "d.npz", x=np.moveaxis(np.repeat(x, 3, axis=1), 1, -1), y=y)
    wanted = msgspec.structs.replace(spec, model=ModelSettings("small_cnn", (3, 8, 8), 4))
    with pytest.raises(DataError, match="channels last"):
        Simulation(wanted, create())


def test_simulate_says_what_it_trains_on(tmp_path):
    x, y = samples()
    np.savez(tmp_path / "d.npz", x=x, y=y)
    (tmp_path / "r.toml").write_text(
        '[method]\nname = "fedavg"\n[model]\nname = "small_cnn"\ninput_shape = [1, 8, 8]\nclasses = 4\n'
        "[training]\nrounds = 1\npretrain_epochs = 1\n"
        f'[data]\nsource = "arrays:{tmp_path / "d.npz"}"\n[data.partition]\nkind = "iid"\ndevices = 2\n'
    )
    shown = CliRunner().invoke(app, ["simulate", str(tmp_path / "r.toml")])
    assert shown.exit_code == 0, shown.output
    first, *steps = shown.stdout.splitlines()
    assert first.startswith("data: 120 samples of 4 classes: 0 30, 1 30, 2 30, 3 30; (1, 8, 8), 0 to 255 (uint8)")
    assert "test accuracy" in steps[0]
