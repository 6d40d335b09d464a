"""Methods by name: ours, and those of other distributions (entry points ``tinyfleet.methods``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyfleet.device_profiles.plugins import Door
from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.lookup import lookup
from tinyfleet.fedcore.methods.fedavg import FedAvg, Static
from tinyfleet.fedcore.methods.feddst import FedDst
from tinyfleet.fedcore.methods.fedmef import FedMef
from tinyfleet.fedcore.methods.fedrts import FedRts
from tinyfleet.fedcore.methods.fedtiny import FedTiny
from tinyfleet.fedcore.methods.fl_pqsu import FlPqsu
from tinyfleet.fedcore.methods.lotteryfl import LotteryFl
from tinyfleet.fedcore.methods.method import Method, Problem
from tinyfleet.fedcore.methods.own_normalization import OwnNormalization
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


_BY_NAME: dict[str, type[Method]] = {method.name: method for method in METHODS}


def _method(name: str, given: object) -> type[Method]:
    if not isinstance(given, type) or not issubclass(given, Method) or getattr(given, "name", None) != name:
        raise TypeError(f"it is {given!r}; give a subclass of Method whose name is {name!r}")
    return given


DOOR = Door("tinyfleet.methods", _BY_NAME.keys, _method)


def names() -> tuple[str, ...]:
    """Names of all methods, those of other distributions last."""
    return (*_BY_NAME, *DOOR.names())


def kind(name: str) -> type[Method]:
    """The class of the method called ``name``. Raises ``Unavailable``, a ``ConfigError``."""
    return lookup("method", name, _BY_NAME, DOOR)


def create(method: Mapping[str, Any], problem: Problem) -> Method:
    """The method that ``method["name"]`` picks; its other keys are that method's settings.

    Raises ``ConfigError`` for an unknown name (``Unavailable``), key or value.
    """
    chosen = kind(str(method.get("name")))
    return chosen(convert(dict(method), chosen.settings_type, f"method {chosen.name}"), problem)


def method_of(spec: RunSpec, start: Params | None = None) -> Method:
    """The run's method: without public data the devices measure inputs first; its results are summed as asked.

    ``start`` are the numbers that ``model.init`` speaks of: whoever makes an initial state gives them. Raises
    ``ConfigError``.
    """
    method = create(spec.method, problem_of(spec, start))
    if not spec.data.public_fraction:
        method = OwnNormalization(method)
    if not spec.secure_aggregation.enabled:
        return method
    # Only here: it loads cryptography, for which a board without such a run has no memory to spare.
    from tinyfleet.fedcore.methods.summing.combinations import check_secure_aggregation
    from tinyfleet.fedcore.methods.summing.secure_method import SecureMethod

    check_secure_aggregation(spec, method)
    return SecureMethod(method, spec.secure_aggregation)


def problem_of(spec: RunSpec, start: Params | None = None) -> Problem:
    """The run's problem; ``start`` as in ``method_of``. Raises ``ConfigError`` where its model does not exist."""
    started = bool(spec.model.init)
    return Problem(build(spec.model), spec.training, spec.seed, spec.wire.precision, started, start or {})
