"""What a Jetson's driver says of its memory, on a fake tree."""

from __future__ import annotations

import pytest

from tests.device_profiles.sensors.trees import put
from tinyfleet.device_profiles.gpu_memory import gpu_bytes

CLIENTS = """CLIENT                        PROCESS      PID        SIZE
user                          python3     4711     123456K
user                     web content      4712       2048K
user                             Xorg     5404      18788K
total                                              144292K
"""


@pytest.mark.parametrize(("pids", "kilobytes"), [((4711,), 123456), ((4711, 4712), 125504), ((1,), 0), ((), 0)])
def test_the_memory_of_the_processes_that_count(tmp_path, pids, kilobytes):
    put(tmp_path, "sys/kernel/debug/nvmap/iovmm/clients", CLIENTS)
    assert gpu_bytes(pids, tmp_path) == kilobytes * 1024


@pytest.mark.parametrize(
    "content", ["", "user\n", "user a b c\n", "user x 4711 12X\n", "user x 4711 K\n", b"\xff\xfe"]
)
def test_a_file_that_is_absent_or_odd_counts_nothing(tmp_path, content):
    assert gpu_bytes((4711,), tmp_path) == 0
    put(tmp_path, "sys/kernel/debug/nvmap/iovmm/clients", content)
    assert gpu_bytes((4711,), tmp_path) == 0
