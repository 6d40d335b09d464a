"""The example plugin in an environment of its own: installed, listed, and used by simulate and export."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from tests.environments import ROOT, Environment
from tinyfleet.fedcore.datasets.registry import load

PLUGIN = ROOT / "examples" / "plugin"
TINYFLEET = "from tinyfleet.cli import main; main()"

pytestmark = pytest.mark.slow


def write_idx(path, values):
    head = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(head + values.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugin")
    made = Environment(folder / "environment", ours=True)
    # A copy: building leaves files behind.
    made.install(shutil.copytree(PLUGIN, folder / "sources"))
    return made


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    """The example's run, simulated in a folder with data in IDX files."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "digits").mkdir()
    digits = load("digits").train
    write_idx(folder / "digits" / "train-images-idx3-ubyte", digits.x[:, 0])
    write_idx(folder / "digits" / "train-labels-idx1-ubyte", digits.y)
    shutil.copy(PLUGIN / "run.toml", folder)
    out = environment.python(TINYFLEET, "simulate", "run.toml", "--out", "state.blob", "--json", cwd=folder)
    return folder, json.loads(out)


def test_the_doctor_lists_all_of_it_and_finds_no_fault(environment):
    document = json.loads(environment.python(TINYFLEET, "doctor", "plugins", "--json"))
    (check,) = document["checks"]
    line = next(line for line in check["found"].splitlines() if line.startswith("tinyfleet-example 0.1.0: "))
    added = line.partition(": ")[2].split(", ")
    assert sorted(added) == [
        "boards le-potato",
        "datasets idx",
        "engines torch-reproducible",
        "export_formats numpy-fp32",
        "methods set",
        "models lenet5",
        "sensors fan",
    ]
    assert "tinyfleet-example" not in check["remedy"]


def test_method_model_and_reader_train_together(run):
    _, document = run
    steps = document["steps"]
    assert [step["round"] for step in steps] == [1, 2, 3]
    assert all(step["density"] == pytest.approx(0.3, abs=0.01) for step in steps)
    assert steps[-1]["test_accuracy"] > 0.5, "ten classes: chance is 0.1"


def test_the_mask_changes_and_keeps_its_size(environment, run):
    folder, _ = run
    masks = environment.python(
        "import sys, tomllib, json, numpy as np\n"
        "from tinyfleet.fedcore.run_spec import RunSpec\n"
        "from tinyfleet.fedcore.settings import read_toml\n"
        "from tinyfleet.fedcore.training.registry import create as engine\n"
        "from tinyfleet.simulation import Simulation\n"
        "from pathlib import Path\n"
        "run = Simulation(read_toml(Path('run.toml'), RunSpec), engine('auto'))\n"
        "first = {n: m.copy() for n, m in run.state.mask.items()}\n"
        "run.step()\n"
        "after = run.state.mask\n"
        "gone = {n: int((m & ~after[n]).sum()) for n, m in first.items()}\n"
        "zero = all(not run.state.params[n][m & ~first[n]].any() for n, m in after.items())\n"
        "same = all(m.sum() == after[n].sum() for n, m in first.items())\n"
        "print(json.dumps([gone, {n: [int(m.sum()), m.size] for n, m in first.items()}, zero, same]))\n",
        cwd=folder,
    )
    gone, active, regrown_are_zero, same_size = json.loads(masks)
    assert gone == {name: min(round(0.3 * count), size - count) for name, (count, size) in active.items()}
    assert gone["conv3.weight"] > 1000
    assert regrown_are_zero
    assert same_size


def test_the_engine_trains_and_auto_never_means_it(environment, run):
    folder, _ = run
    command = ("simulate", "run.toml", "--json", "--engine", "torch-reproducible", "--out")
    for name in ("first", "second"):
        environment.python(TINYFLEET, *command, name, cwd=folder)
    assert (folder / "first").read_bytes() == (folder / "second").read_bytes()
    script = (
        "from tinyfleet.fedcore.training import registry as r\n"
        "print(r.create('torch-reproducible').name, 'torch-reproducible' in r.available())\n"
        "print(r.facts_of('torch-reproducible').warm_bytes)"
    )
    name, among, warm = environment.python(script, cwd=folder).split()
    assert (name, among) == ("torch-reproducible", "False")
    assert int(warm) > 0
    facts = (
        "import sys; from tinyfleet.fedcore.training import registry as r\n"
        "r.expected('torch-reproducible'); print('numpy' in sys.modules, 'torch' in sys.modules)"
    )
    assert environment.python(facts).split() == ["False", "False"], "the supervisor reads them"


def test_the_format_is_written_and_verified(environment, run):
    folder, _ = run
    out = environment.python(
        TINYFLEET, "export", "--state-blob", "state.blob", "--spec", "run.toml", "--out", "files",
        "--format", "numpy-fp32", "--format", "onnx-fp32", "--json", cwd=folder,
    )  # fmt: skip
    rows = {row["format"]: row for row in json.loads(out)["exports"]}
    assert rows["numpy"]["runtime"] == "numpy"
    assert rows["numpy"]["max_rel_error"] < 1e-4
    assert rows["numpy"]["accuracy"] == rows["onnx"]["accuracy"]
    assert rows["numpy"]["density"] == rows["onnx"]["density"]
    assert (folder / "files" / "lenet5-fp32.npz").stat().st_size == rows["numpy"]["file_bytes"]
    manifest = json.loads((folder / "files" / "export.json").read_text())
    assert manifest["input_layout"]["numpy"] == "channels first"


def test_board_and_sensor_are_known(environment, tmp_path):
    shown = json.loads(environment.python(TINYFLEET, "profile", "show", "le-potato", "--json"))
    assert shown["title"] == "Libre Computer Le Potato"
    assert "le-potato" in json.loads(environment.python(TINYFLEET, "profile", "list", "--json"))
    hwmon = tmp_path / "sys/class/hwmon/hwmon0"
    hwmon.mkdir(parents=True)
    (hwmon / "name").write_text("emc2305\n")
    (hwmon / "fan1_input").write_text("1480\n")
    (hwmon / "fan2_input").write_text("0\n")
    compatible = tmp_path / "sys/firmware/devicetree/base/compatible"
    compatible.parent.mkdir(parents=True)
    compatible.write_bytes(b"libretech,aml-s905x-cc\0amlogic,s905x\0amlogic,meson-gxl\0")
    readings = json.loads(environment.python(TINYFLEET, "profile", "sensors", "--root", str(tmp_path), "--json"))
    fan = next(reading for reading in readings if reading["name"] == "fan")
    assert (fan["value"], fan["state"], fan["note"]) == (0.0, "warning", "emc2305")
    script = (
        "import sys; from pathlib import Path; from tinyfleet.device_profiles.detect import detect\n"
        "from tinyfleet.device_profiles.sensors.read import read_health\n"
        "print(detect(Path(sys.argv[1])).name, read_health(Path(sys.argv[1]))['fan_rpm'])"
    )
    assert environment.python(script, str(tmp_path)).split() == ["le-potato", "0.0"]
