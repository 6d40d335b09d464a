"""The guide from an empty machine to an exported model, with the real broker, agent and files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.docs.copied_tree import copy_tree

CLASSES = ("circle", "cross", "line", "square")


def draw_images(folder, count, rng):
    """A folder a class of 32x32 pictures that a small network can tell apart."""
    from PIL import Image, ImageDraw

    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for index in range(count):
            image = Image.fromarray(rng.integers(0, 90, (32, 32, 3), dtype=np.uint8))
            draw, left = ImageDraw.Draw(image), int(rng.integers(2, 10))
            box, color = (left, left, left + 18, left + 18), tuple(int(c) for c in rng.integers(170, 256, 3))
            match label:
                case "circle":
                    draw.ellipse(box, outline=color, width=2)
                case "square":
                    draw.rectangle(box, outline=color, width=2)
                case "line":
                    draw.line((left, left + 9, left + 18, left + 9), fill=color, width=3)
                case "cross":
                    draw.line(box, fill=color, width=2)
                    draw.line((left, left + 18, left + 18, left), fill=color, width=2)
            image.save(folder / label / f"{index}.png")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_guide_leads_to_a_model(tmp_path):
    for tool in ("unshare", "chroot", "setpriv", "apt-get"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here")
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 8883), 1.0):
        pytest.skip("something listens on port 8883, which the guide's broker takes")
    repository = copy_tree(tmp_path / "repository")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "tree"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)
    rng = np.random.default_rng(0)
    draw_images(tmp_path / "images" / "public", 40, rng)
    draw_images(tmp_path / "images" / "board", 40, rng)
    out = tmp_path / "out.json"
    driver = Path(__file__).with_name("guide.py")
    ran = subprocess.run(
        [
            *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, str(driver), str(repository), str(tmp_path / "images"), str(out)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=2300,  # kills what unshare started, too
        env={**os.environ, "PYTHONPATH": ""},
    )
    if "Operation not permitted" in ran.stderr or "wrong fs type" in ran.stderr:
        pytest.skip(f"no overlay can be mounted here: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, f"{ran.stdout[-8000:]}\n{ran.stderr[-3000:]}"
    told = json.loads(out.read_text())
    assert [row["state"] for row in told["runs"]] == ["finished"]
    assert [row["device"] for row in told["devices"]] == ["board-1"]
    assert any(name.endswith(".onnx") for name in told["files"])
    assert any(name.endswith(".tflite") for name in told["files"])
    assert "engines: native" in told["log"]
