"""Methods by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyfleet.device_profiles.suggestions import hint
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods.fedavg import FedAvg, Static
from tinyfleet.fedcore.methods.feddst import FedDst
from tinyfleet.fedcore.methods.fedmef import FedMef
from tinyfleet.fedcore.methods.fedrts import FedRts
from tinyfleet.fedcore.methods.fedtiny import FedTiny
from tinyfleet.fedcore.methods.fl_pqsu import FlPqsu
from tinyfleet.fedcore.methods.lotteryfl import LotteryFl
from tinyfleet.fedcore.methods.method import Method, Problem
from tinyfleet.fedcore.methods.prunefl import PruneFl
from tinyfleet.fedcore.methods.snip import Snip
from tinyfleet.fedcore.methods.synflow import SynFlow
from tinyfleet.fedcore.methods.tinyfleet import TinyFleet
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.settings import convert

METHODS: tuple[type[Method], ...] = (
    FedAvg,
    Static,
    FedTiny,
    FedMef,
    Snip,
    SynFlow,
    FlPqsu,
    PruneFl,
    FedDst,
    LotteryFl,
    FedRts,
    TinyFleet,
)


def names() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(method.name for method in METHODS)


def create(method: Mapping[str, Any], problem: Problem) -> Method:
    """The method that ``method["name"]`` picks; its other keys are that method's settings.

    Raises ``ConfigError`` for an unknown name, key or value.
    """
    name = method.get("name")
    for kind in METHODS:
        if kind.name == name:
            return kind(convert(dict(method), kind.settings_type, f"method {name}"), problem)
    raise ConfigError(f"method {name!r} is unknown; {hint(str(name), names())}")


def problem_of(spec: RunSpec) -> Problem:
    """The run's problem. Raises ``ConfigError`` where its model does not exist."""
    return Problem(build(spec.model), spec.training, spec.seed, spec.wire.precision)
