"""The agent's settings: the file ``agent.toml``, with the command line's overrides on top.

Each field carries its description, so that the reference in the docs is generated from here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from tinyfleet.device_profiles.cpu import CpuLimits, IoPriority
from tinyfleet.device_profiles.limits import parse_size
from tinyfleet.edge_agent.guards.guard_settings import GuardSettings
from tinyfleet.edge_agent.guards.sensor_settings import SensorSettings
from tinyfleet.fedcore.broker_settings import BrokerSettings
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.foreign.data_description import MOST_CLASSES, ClassName
from tinyfleet.fedcore.protocol.topics import valid_device
from tinyfleet.fedcore.run_spec import DataSettings, PartitionSettings, PrivacySettings, Settings
from tinyfleet.fedcore.settings import convert, read_toml

Policy = Literal["auto", "fresh", "warm"]


class AgentDataSettings(DataSettings, frozen=True):
    """The device's own data. It never leaves the board."""

    source: Annotated[
        str,
        Meta(description="digits | image-folder:PATH | arrays:FILE.npz | tables:PATH | ...: all in docs/data.md"),
    ] = "mnist5k"
    public_fraction: Annotated[
        float, Meta(ge=0.0, le=1.0, description="part of the source that is not this device's: public data")
    ] = 0.1
    validation_fraction: Annotated[
        float, Meta(ge=0.0, le=0.9, description="of the public part, held out at the gateway: nothing here")
    ] = 0.0
    test_fraction: Annotated[
        float, Meta(ge=0.0, le=1.0, description="part held out for tests where the source has no split of its own")
    ] = 0.2
    classes: Annotated[
        tuple[ClassName, ...],
        Meta(max_length=MOST_CLASSES, description="names of the labels where they are numbers"),
    ] = ()
    limit: Annotated[int, Meta(ge=0, description="use at most so many training samples; 0: all")] = 0
    partition: Annotated[
        PartitionSettings, Meta(description="split of one pool over demo devices; kind none on a real board")
    ] = PartitionSettings()
    index: Annotated[int, Meta(ge=0, description="which part of the partition is this device's")] = 0


class LimitSettings(Settings, frozen=True):
    """What the board grants to training."""

    memory_limit: Annotated[
        str | int,
        Meta(description='memory of the worker, such as "300M" (10^6 bytes) or "256Mi"; 0: from the board'),
    ] = 0
    threads: Annotated[
        int,
        Meta(ge=0, le=1024, description="CPU threads of the worker; 0: as many as cores and cpu_share leave it"),
    ] = 0
    cores: Annotated[
        tuple[int, ...], Meta(description="numbers of the cores for the worker; empty: all that the agent may use")
    ] = ()
    cpu_share: Annotated[
        float,
        Meta(ge=0.0, le=1.0, description="part of the time of those cores together, by a cgroup; 0: no quota"),
    ] = 0.0
    nice: Annotated[
        int, Meta(ge=0, le=19, description="how much the worker yields, on top of the agent's own niceness")
    ] = 5
    # Idle: a task reads its data once and writes one result, and may wait for whatever else needs the card.
    io_priority: Annotated[
        IoPriority, Meta(description="disk access: idle waits for all others; none: as the agent's own")
    ] = "idle"
    policy: Annotated[
        Policy, Meta(description="fresh: the worker exits after each task; warm: it stays; auto: by memory")
    ] = "auto"

    @property
    def memory_limit_bytes(self) -> int:
        """The limit in bytes; 0: take it from the board. Raises ``ConfigError``."""
        limit = self.memory_limit
        if isinstance(limit, str):
            limit = size(limit, "limits.memory_limit")
        if limit and limit < 32_000_000:
            raise ConfigError(
                f"limits.memory_limit {self.memory_limit!r} is {limit} bytes, below what any engine needs; "
                'give at least "32M", or 0 to take it from the board'
            )
        return limit

    def cpu(self) -> CpuLimits:
        """What the worker may take of the processor. Raises ``ConfigError`` for a core that is not here."""
        limits = CpuLimits(self.cores, self.cpu_share, self.nice, self.io_priority)
        if missing := limits.missing():
            usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise ConfigError(f"limits.cores: this agent may not use core {missing[0]}; choose from {usable}")
        return limits


class AgentPrivacySettings(Settings, frozen=True):
    """What a run must promise before this device trains for it, whoever sends it."""

    require: Annotated[
        Literal["none", "central", "local"],
        Meta(description="least privacy of a run: none takes all, central also local ones, local those alone"),
    ] = "none"
    least_noise: Annotated[
        float, Meta(ge=0.0, description="least noise of a run with the required privacy, in clips")
    ] = 0.0
    most_releases: Annotated[
        int, Meta(ge=0, description="updates with noise of its own that ever leave it, over all runs; 0: no limit")
    ] = 0

    def objection(self, run: PrivacySettings) -> str:
        """Why this device does not train under a run's terms; empty: it does."""
        ranks = ("none", "central", "local")
        if ranks.index(run.mode) < ranks.index(self.require):
            return f"this device requires privacy.mode {self.require!r}, and the run has {run.mode!r}"
        if self.require != "none" and run.noise < self.least_noise:
            return f"this device requires noise of {self.least_noise:g} clips, and the run has {run.noise:g}"
        return ""


class StorageSettings(Settings, frozen=True):
    """What the agent may keep on disk."""

    outbox_limit: Annotated[
        str, Meta(description="results that wait for the coordinator; beyond it the oldest are dropped")
    ] = "500M"
    outbox_days: Annotated[float, Meta(gt=0.0, description="results older than this are dropped")] = 14.0
    inbox_limit: Annotated[
        str, Meta(description="largest task blob that is accepted; older blobs make room for it")
    ] = "500M"


class AgentConfig(Settings, frozen=True):
    """All settings of one agent."""

    name: Annotated[
        str, Meta(description="device name: lower-case letters, digits, hyphens; empty: made from the key")
    ] = ""
    state: Annotated[str, Meta(description="directory of the identity, outbox and history")] = "/var/lib/tinyfleet"
    engine: Annotated[
        str, Meta(description="training engine: native | torch | torch-cuda | auto (native, else torch)")
    ] = "auto"
    fleet: Annotated[
        str,
        Meta(
            description="id of the only fleet to obey, from `coordinator status`; empty: the first that accepts",
            pattern=r"^([0-9a-f]{32})?$",
        ),
    ] = ""
    broker: Annotated[BrokerSettings, Meta(description="the broker")] = BrokerSettings()
    data: Annotated[AgentDataSettings, Meta(description="the device's own data")] = AgentDataSettings()
    limits: Annotated[LimitSettings, Meta(description="what the board grants to training")] = LimitSettings()
    storage: Annotated[StorageSettings, Meta(description="what the agent may keep on disk")] = StorageSettings()
    privacy: Annotated[AgentPrivacySettings, Meta(description="what a run must promise")] = AgentPrivacySettings()
    sensors: Annotated[SensorSettings, Meta(description="the board's sensors")] = SensorSettings()
    guards: Annotated[GuardSettings, Meta(description="what pauses training")] = GuardSettings()


def load(path: Path | None, overrides: dict[str, Any]) -> AgentConfig:
    """Read ``path`` (None: defaults), put ``overrides`` ("broker.url": ...) on top and check all of it.

    Overrides that are None are left out. Raises ``ConfigError``.
    """
    config = AgentConfig() if path is None else read_toml(path, AgentConfig)
    data = msgspec.to_builtins(config)
    for dotted, value in overrides.items():
        if value is None:
            continue
        *sections, key = dotted.split(".")
        place = data
        for section in sections:
            place = place[section]
        place[key] = value
    config = convert(data, AgentConfig, "command line" if path is None else f"{path} with the command line")
    check(config)
    return config


def check(config: AgentConfig) -> None:
    """Raise ``ConfigError`` for values that no type can rule out."""
    if config.name and not valid_device(config.name):
        raise ConfigError(
            f"name {config.name!r}: use lower-case letters, digits and hyphens, at most 64, first a letter or digit"
        )
    _ = config.limits.memory_limit_bytes
    _ = config.limits.cpu()
    size(config.storage.outbox_limit, "storage.outbox_limit")
    size(config.storage.inbox_limit, "storage.inbox_limit")
    config.guards.limits(config.sensors.options())
    partition = config.data.partition
    if partition.kind != "none" and config.data.index >= partition.devices:
        raise ConfigError(f"data.index {config.data.index}: the partition has only {partition.devices} devices")


def size(text: str, where: str) -> int:
    """Bytes of a size such as "300M". Raises ``ConfigError`` that says ``where`` it stands."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def descriptions(kind: type[msgspec.Struct] = AgentConfig) -> dict[str, str]:
    """Field name -> its one-line description."""
    return {item.name: _description(item.type) for item in msgspec.structs.fields(kind)}


def _description(annotation: Any) -> str:
    for meta in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
        if isinstance(meta, Meta) and meta.description:
            return meta.description
    return ""


def as_toml(config: AgentConfig) -> str:
    """The whole configuration as a commented TOML file, which ``load`` reads back to an equal one."""
    return "\n".join(_section(config, "")).lstrip("\n") + "\n"


def _section(value: msgspec.Struct, prefix: str) -> list[str]:
    """Lines of one table: its plain values first, then its sub-tables, the order that TOML needs."""
    lines: list[str] = []
    tables: list[str] = []
    notes = descriptions(type(value))
    for name in value.__struct_fields__:
        entry = getattr(value, name)
        if isinstance(entry, msgspec.Struct):
            path = f"{prefix}{name}"
            heading = f"# {notes[name]}\n" if notes[name] else ""
            tables += ["", f"{heading}[{path}]", *_section(entry, f"{path}.")]
        else:
            # JSON strings, numbers and booleans are TOML ones, but for what nobody could see in the file.
            text = msgspec.json.encode(entry).decode()
            text = "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)
            lines.append(f"{name} = {text}" + (f"  # {notes[name]}" if notes[name] else ""))
    return lines + tables
