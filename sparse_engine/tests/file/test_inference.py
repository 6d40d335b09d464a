"""A stored model predicts what its network does, whatever the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checks import assert_close
from structures import BRANCH, DOWN, SHORTCUT, STEM, add, whole
from test_file import NORMALISED, example

import sparse_engine
from sparse_engine import Inference, ModelError, Network, dump, load, load_bytes
from sparse_engine.__main__ import main

MODELS = {
    "residual": whole(*STEM, *DOWN, *SHORTCUT, add("sum", "y", "z")),
    "identity": whole(*STEM, *BRANCH, add("sum", "x", "y"), flat=True),
    "normalised": NORMALISED,
}


def samples(model, count):
    return np.random.default_rng(3).standard_normal((count, *model.input_shape)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("name", MODELS)
def test_it_predicts_what_the_network_does(name, density, threads):
    model = MODELS[name]
    params, mask = example(model, density)
    network = Network(model)
    network.set(params, mask)
    inference = Inference(load_bytes(dump(model, params, mask)), threads)
    assert (inference.input_shape, inference.classes, inference.threads) == (model.input_shape, 3, threads)
    x = samples(model, 37)
    for count in (0, 1, 2, 4, 5, 15, 16, 17, 20, 37):
        found = inference.predict(x[:count])
        assert found.shape == (count, 3)
        if count:
            assert_close(found, network.predict(x[:count]), f"{count} samples")
    assert len(inference._network._programs) <= 2


def test_half_precision_is_near(tmp_path):
    model = MODELS["residual"]
    params, mask = example(model, 0.5)
    path = tmp_path / "half.tfse"
    path.write_bytes(dump(model, params, mask, "fp16", {"normalization": "none"}))
    half, x = load(path), samples(model, 16)
    whole_precision = Inference(load_bytes(dump(model, params, mask))).predict(x)
    assert 0 < np.abs(half.predict(x) - whole_precision).max() < 5e-3 * np.abs(whole_precision).max()
    assert half.metadata == {"normalization": "none"}


def test_samples_of_another_kind_are_refused():
    model = MODELS["residual"]
    stored = load_bytes(dump(model, *example(model)))
    inference = Inference(stored)
    with pytest.raises(ModelError, match=r"samples of shape \(3, 2, 4, 5\); give \(N, 2, 4, 4\)"):
        inference.predict(np.zeros((3, 2, 4, 5), np.float32))
    with pytest.raises(ModelError, match=r"samples of shape \(2, 4, 4\)"):
        inference.predict(np.zeros((2, 4, 4), np.float32))
    with pytest.raises(ModelError, match="samples of type uint8; normalise them"):
        inference.predict(np.zeros((1, 2, 4, 4), np.uint8))
    with pytest.raises(ModelError, match="0 threads; give at least 1"):
        Inference(stored, 0)


@pytest.fixture
def files(tmp_path):
    model = MODELS["residual"]
    content = dump(model, *example(model))
    (tmp_path / "model.tfse").write_bytes(content)
    x = samples(model, 6)
    np.save(tmp_path / "x.npy", x)
    return tmp_path, Inference(load_bytes(content)).predict(x)


def test_the_command_in_a_process_of_its_own(files):
    folder, expected = files
    command = [sys.executable, "-m", "sparse_engine", "model.tfse", "--input", "x.npy", "--json", "--runs", "2"]
    paths = {"PYTHONPATH": str(Path(sparse_engine.__file__).parents[1])}
    done = subprocess.run(command, cwd=folder, env=os.environ | paths, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["predictions"] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose(answer["logits"], expected)
    assert answer["latency_ms"] > 0
    assert done.stderr == ""


def test_the_command_says_what_is_wrong(files, capsys):
    folder, expected = files
    model, x = str(folder / "model.tfse"), str(folder / "x.npy")
    assert main([model, "--input", x]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split("\t")[1]) for line in lines[:-1]] == expected.argmax(axis=1).tolist()
    np.save(folder / "one.npy", np.load(x)[0])
    assert main([model, "--input", str(folder / "one.npy"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"]) == 1
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    for bad, said in ((folder / "none.npy", "No such file"), (folder / "objects.npy", "allow_pickle")):
        assert main([model, "--input", str(bad)]) == 1
        assert said in capsys.readouterr().err
    assert main([x, "--input", x]) == 1
    assert "not a model file" in capsys.readouterr().err
