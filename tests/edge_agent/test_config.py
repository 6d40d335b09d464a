from __future__ import annotations

import os

import msgspec
import pytest

from tinyfleet.device_profiles.cpu import CpuLimits
from tinyfleet.device_profiles.sensors.sensor import Options as SensorOptions
from tinyfleet.edge_agent.config import (
    AgentConfig,
    AgentDataSettings,
    LimitSettings,
    StorageSettings,
    as_toml,
    descriptions,
    load,
)
from tinyfleet.edge_agent.guards.guard_settings import GuardSettings
from tinyfleet.edge_agent.guards.guards import GuardLimits
from tinyfleet.edge_agent.guards.sensor_settings import SensorSettings
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError


def test_the_written_file_reads_back_equal(tmp_path):
    overrides = {
        "name": "porch",
        "broker.url": 'mqtt://"odd":1',
        "limits.memory_limit": "300M",
        "data.partition.kind": "dirichlet",
        "data.partition.devices": 4,
        "data.index": 3,
    }
    config = load(None, overrides)
    path = tmp_path / "agent.toml"
    path.write_text(as_toml(config), encoding="utf-8")
    assert load(path, {}) == config
    assert config.limits.memory_limit_bytes == 300_000_000
    assert config.data.partition.devices == 4


def test_what_nobody_could_see_is_written_so_that_it_is_seen_and_reads_back(tmp_path):
    odd = '\x7f"\\\x1b[31m\n\x9b2J\u202egnp.exe\U000e0001'
    config = load(None, {"name": "porch", "data.source": f"arrays:/{odd}", "state": f"/{odd}"})
    written = as_toml(config)
    assert all(char.isprintable() for char in written if char != "\n")
    path = tmp_path / "agent.toml"
    path.write_text(written, encoding="utf-8")
    assert load(path, {}) == config


def test_the_command_line_wins_and_none_leaves_the_file_alone(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text('name = "a"\n[limits]\nmemory_limit = "100M"\nthreads = 2\n', encoding="utf-8")
    config = load(path, {"name": "b", "limits.memory_limit": None})
    assert (config.name, config.limits.memory_limit_bytes, config.limits.threads) == ("b", 100_000_000, 2)


def test_an_unknown_key_names_the_nearest(tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text('[limits]\nmemory_limits = "300M"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="memory_limit`"):
        load(path, {})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("name", "Porch Light", "lower-case"),
        ("name", "a/b", "lower-case"),
        ("limits.memory_limit", "lots", "lots"),
        ("limits.memory_limit", "1M", "at least"),
        ("limits.threads", -1, "threads"),
        ("limits.policy", "hot", "policy"),
        ("limits.nice", 20, "nice"),
        ("limits.nice", -1, "nice"),
        ("limits.io_priority", "low", "io_priority"),
        ("limits.cpu_share", 1.5, "cpu_share"),
        ("limits.cpu_share", float("nan"), "cpu_share"),
        ("limits.cores", [0, 9999], "limits.cores: this agent may not use core 9999; choose from"),
        ("limits.cores", [-1], "may not use core -1"),
        ("storage.outbox_limit", "x", "x"),
        ("broker.protocol", "4", "protocol"),
        ("sensors.disabled", ["tempertaure"], "did you mean 'temperature'"),
        ("sensors.temperature_warning_c", 95.0, "95.0 is above temperature_critical_c 85.0"),
        ("sensors.battery_critical_percent", 101.0, "battery_critical_percent"),
        ("sensors.disk_warning", "some", "some"),
        ("sensors.memory_critical", "1G", "memory_warning_bytes 64000000 is below"),
        ("guards.disabled", ["batery"], "did you mean 'battery'"),
        ("guards.disabled", ["moon"], "choose from battery, disk"),
        ("guards.least_disk", "little", "guards: least_disk: size 'little'"),
        ("guards.least_pause_s", float("inf"), "guards.least_pause_s is inf; give a finite number"),
        ("guards.resume_after_s", -1.0, "resume_after_s"),
    ],
)
def test_bad_values_are_named(key, value, words):
    with pytest.raises(ConfigError, match=words):
        load(None, {key: value})


def test_what_the_worker_may_take_of_the_processor():
    assert load(None, {}).limits.cpu() == CpuLimits((), 0.0, 5, "idle")
    core = min(os.sched_getaffinity(0))
    given = {"cores": [core], "cpu_share": 0.5, "nice": 0, "io_priority": "none"}
    config = load(None, {f"limits.{name}": value for name, value in given.items()})
    assert config.limits.cpu() == CpuLimits((core,), 0.5, 0, "none")
    assert config.limits.cpu().threads() == 1


def test_the_sensors_options_are_the_settings(tmp_path):
    assert SensorSettings().options(tmp_path) == SensorOptions(disk=tmp_path)
    settings = load(None, {"sensors.temperature_critical_c": 99.0, "sensors.disk_warning": "2Gi"}).sensors
    assert settings.options() == SensorOptions(temperature_critical_c=99.0, disk_warning_bytes=2 << 30)


def test_the_guards_limits_are_the_sensors_unless_set():
    assert GuardSettings().limits(SensorOptions()) == GuardLimits()
    config = load(None, {"sensors.temperature_critical_c": 80.0, "sensors.battery_critical_percent": 20.0})
    limits = config.guards.limits(config.sensors.options())
    assert (limits.temperature_pause_c, limits.temperature_resume_c) == (80.0, 75.0)
    assert (limits.battery_pause_percent, limits.battery_resume_percent) == (20.0, 30.0)
    guards = load(None, {"guards.temperature_gap_c": 3.0, "guards.least_disk": "2Mi"}).guards
    assert guards.limits(SensorOptions()).temperature_resume_c == 82.0
    assert guards.limits(SensorOptions()).least_disk_bytes == 2 << 20


def test_an_index_beyond_the_partition_is_an_error():
    with pytest.raises(ConfigError, match="only 4 devices"):
        load(None, {"data.partition.kind": "iid", "data.partition.devices": 4, "data.index": 4})


def test_a_missing_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    "kind",
    [AgentConfig, BrokerSettings, AgentDataSettings, LimitSettings, StorageSettings, SensorSettings, GuardSettings],
)
def test_every_field_is_described(kind):
    notes = descriptions(kind)
    assert set(notes) == {item.name for item in msgspec.structs.fields(kind)}
    assert all(len(note) > 8 for note in notes.values()), notes
