"""``tinyfleet model import``: what a file holds, for people and programs."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")

from tests.fedcore.models.onnx_import.files import dense, keras_images
from tinyfleet.cli.app import app
from tinyfleet.fedcore.errors import ConfigError


def run(*arguments):
    return CliRunner().invoke(app, ["model", "import", *map(str, arguments)])


def test_json_says_what_was_found(tmp_path):
    ran = run(keras_images(tmp_path / "door.onnx"), "--json")
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.output)
    assert (found["name"], found["input_shape"], found["classes"]) == ("door", [2, 8, 10], 3)
    assert found["difference_from_onnx_runtime"] <= 1e-5
    assert (found["channels_last_in_the_file"], found["left_to_the_loss"]) == (True, "Softmax")
    assert [layer["kind"] for layer in found["layers"]][:3] == ["conv", "batch_norm", "relu"]
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"]) == 72 + 8 + 40 + 147
    assert found["flops"] == sum(layer["flops"] for layer in found["layers"])


def test_people_get_a_table(tmp_path):
    ran = run(dense(tmp_path / "d.onnx"))
    assert ran.exit_code == 0
    assert "difference from onnx runtime" in ran.output
    assert "model.h" in ran.output


def test_a_refusal_names_the_node(tmp_path):
    ran = run(dense(tmp_path / "d.onnx", "Elu"))
    assert isinstance(ran.exception, ConfigError)
    assert "(Elu): is not read; use ReLU" in str(ran.exception)
    assert isinstance(run(dense(tmp_path / "d.onnx"), "--input-shape", "3,x").exception, ConfigError)
