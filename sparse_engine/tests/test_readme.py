"""The README's example runs as it stands, from top to bottom, and does what the text says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparse_engine

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    if not README.exists():
        pytest.skip("not in the repository")
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)


def test_the_example_trains_stores_and_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), names)  # noqa: S102
    network, masks, labels = names["network"], names["masks"], names["labels"]

    left = network.get()["conv.weight"]
    assert np.count_nonzero(left) == np.count_nonzero(masks["conv.weight"]) < left.size
    assert (names["outputs"].argmax(axis=1) == labels).mean() > 0.8, names["loss"]

    (command,) = [block for block in blocks("sh") if block.startswith("python ")]
    paths = {"PYTHONPATH": str(Path(sparse_engine.__file__).parents[1])}
    ran = subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        env=os.environ | paths,
        capture_output=True,
        text=True,
        check=True,
    )
    np.testing.assert_allclose(json.loads(ran.stdout)["logits"], names["outputs"])
