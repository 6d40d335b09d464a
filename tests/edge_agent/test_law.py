"""The supervisor's imports stay light: each of these would cost megabytes for as long as the board is up."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "numpy",
    "torch",
    "typer",
    "rich",
    "asyncio",
    "sqlite3",
    "cryptography",
    "multiprocessing",
    "importlib.metadata",
)
SCRIPT = """
import sys
import tinyfleet.edge_agent.cli, tinyfleet.edge_agent.daemon, tinyfleet.fedcore.protocol.mqtt
from tinyfleet.device_profiles.sensors.read import read_health
read_health()  # with each heartbeat: where other distributions add sensors, too
sys.stdout.write(" ".join(name for name in sys.argv[1:] if name in sys.modules))
"""


@pytest.mark.usefixtures("uncovered")
def test_nothing_heavy_is_imported():
    done = subprocess.run([sys.executable, "-c", SCRIPT, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout == ""
