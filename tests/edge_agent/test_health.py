from __future__ import annotations

from edge_agent import health


def write(path, text):
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="ascii")


def test_a_board_with_sensors(tmp_path):
    write(tmp_path / "sys/class/thermal/thermal_zone0/temp", "48312\n")
    write(tmp_path / "sys/class/thermal/thermal_zone1/temp", "61000\n")
    write(tmp_path / "sys/class/thermal/thermal_zone2/temp", "\n")
    write(tmp_path / "sys/class/power_supply/BAT0/capacity", "83\n")
    found = health.read(tmp_path, tmp_path)
    assert found["temperature_c"] == 61.0
    assert found["battery_percent"] == 83.0


def test_a_board_without(tmp_path):
    found = health.read(tmp_path, tmp_path)
    assert set(found) == {"free_memory_bytes", "free_disk_bytes", "load_1m"}
    assert found["free_memory_bytes"] > 1_000_000
    assert found["free_disk_bytes"] > 0
