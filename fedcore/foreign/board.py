"""What a board tells of itself: each fact with its range. Keys that are not known here are dropped unread."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypedDict

import msgspec
from msgspec import Meta

log = logging.getLogger(__name__)

Word = Annotated[str, Meta(max_length=64)]
Line = Annotated[str, Meta(max_length=500)]
Cores = Annotated[int, Meta(ge=0, le=4096)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 50)]
Rate = Annotated[float, Meta(ge=0.0, le=1e9)]  # GFLOPS, GB/s, MB/s
Celsius = Annotated[float, Meta(ge=-300.0, le=1000.0)]
Megahertz = Annotated[float, Meta(ge=0.0, le=1e6)]

Figure = Annotated[float, Meta(ge=-1e15, le=1e15)]
Health: TypeAlias = Annotated[dict[Word, Figure], Meta(max_length=64)]
"""A heartbeat's figures by name: free_memory_bytes, temperature_c, ..."""


class RateFacts(TypedDict, total=False):
    """``device_profiles.profile.Rate``."""

    kernel: Word
    density: Annotated[float, Meta(ge=0.0, le=1.0)]
    dtype: Word
    gflops: Rate


class ThermalFacts(TypedDict, total=False):
    """``device_profiles.profile.Thermal``."""

    seconds: Annotated[int, Meta(ge=0, le=1 << 32)]
    cores: Cores
    gflops: Rate
    sustained_share: Rate
    start_celsius: Celsius | None
    peak_celsius: Celsius | None
    start_clock_mhz: Megahertz | None
    lowest_clock_mhz: Megahertz | None
    throttled: bool | None


class MeasuredFacts(TypedDict, total=False):
    """``device_profiles.profile.Measurement``."""

    usable_memory_bytes: Bytes
    cores: Cores
    convolution_gflops: Rate
    memory_bandwidth_gbs: Rate
    disk_write_mbs: Rate
    engine: Word
    rates: Annotated[list[RateFacts], Meta(max_length=64)]
    thermal: ThermalFacts | None


class BoardFacts(TypedDict, total=False):
    """``device_profiles.profile.DeviceProfile``, as it travels: a key that is missing is not known."""

    name: Line
    title: Line
    cpu: Line
    cores: Cores
    memory_bytes: Bytes
    clock_mhz: Annotated[int, Meta(ge=0, le=1_000_000)]
    architecture: Line
    compatible: Annotated[list[Line], Meta(max_length=64)]
    gpu: Line
    shared_memory: bool
    throttling: Line
    torch_at_most: Line
    verified: bool
    measured: MeasuredFacts | None


def board_facts(profile: Mapping[str, Any]) -> BoardFacts:
    """What may be told of a board. One with a value that nobody would take is told as not known, and logged."""
    try:
        return msgspec.convert(dict(profile), BoardFacts)
    except msgspec.ValidationError as error:
        log.warning("this board's profile is not told to the coordinator: %s; measure it again", error)
        return {}
