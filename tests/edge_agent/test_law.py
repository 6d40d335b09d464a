"""The supervisor's imports stay light: each of these would cost megabytes for as long as the board is up."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "numpy",
    "zstandard",
    "typer",
    "rich",
    "asyncio",
    "sqlite3",
    "cryptography",
    "multiprocessing",
    "importlib.metadata",
)
ENGINES = ("torch", "sparse_engine", "tinyfleet.fedcore.training.engine", "tinyfleet.edge_agent.worker.main")
WEB = ("http.server", "socketserver", "amqtt", "jinja2", "websockets", "tinyfleet.coordinator")
SCRIPT = """
import sys
import tinyfleet.edge_agent.cli, tinyfleet.edge_agent.daemon, tinyfleet.fedcore.protocol.mqtt
from tinyfleet.device_profiles.sensors.read import read_health
read_health()  # with each heartbeat: where other distributions add sensors, too
sys.stdout.write(" ".join(name for name in sys.argv[1:] if name in sys.modules))
"""


@pytest.mark.parametrize("names", [HEAVY, ENGINES, WEB], ids=["heavy", "engines", "web"])
def test_nothing_heavy_is_imported(names):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_what_is_imported_is_seen():
    """Else the law above would hold of anything."""
    seen = ["tinyfleet.edge_agent.supervisor", "psutil"]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *seen], capture_output=True, text=True, check=True)
    assert done.stdout.split() == seen
