"""The demo's JSON, as others read it: the keys that are promised."""

from __future__ import annotations

from msgspec import Struct


class Accuracy(Struct):
    dense: float
    tiny: float


class Bytes(Struct):
    up_per_device_round: float
    down_per_device_round: float
    dense_up_per_device_round: float


class Overhead(Struct):
    median: float
    max: float


class Agent(Struct):
    name: str
    idle_rss_mb: float
    peak_rss_mb: float
    engine: str


class Coordinator(Struct):
    idle_rss_mb: float
    peak_rss_mb: float


class Export(Struct):
    format: str
    precision: str
    path: str
    file_bytes: int
    max_rel_error: float
    argmax_agreement: float
    accuracy: float
    latency_ms: float
    runtime: str


class Document(Struct):
    duration_s: float
    method: str
    density: float
    rounds: int
    accuracy: Accuracy
    bytes: Bytes
    round_overhead_s: Overhead
    agents: list[Agent]
    coordinator: Coordinator
    exports: list[Export]
