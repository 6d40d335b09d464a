"""Cost models on disk: the one that ships with an engine, and the one that a board measured of itself."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from tinyfleet.device_profiles.measuring.measure import gflops_apart
from tinyfleet.device_profiles.profile import ProfileError
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.planning.cost_model import CostModel, fit, standard_probes
from tinyfleet.fedcore.planning.kernel_choice import Progress, measure_kernel_choice
from tinyfleet.fedcore.planning.probe import probe
from tinyfleet.fedcore.settings import read_toml
from tinyfleet.fedcore.training.registry import facts_of

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "cost_models"


def shipped(engine: str) -> CostModel | None:
    """What was measured of ``engine`` on a development machine: memory carries over, times only in proportion.

    None for an engine without one. Raises ``ConfigError`` for an unknown engine.
    """
    path = SHIPPED / f"{facts_of(engine).cost_model}.toml"
    return read(path) if path.is_file() else None


def read(path: Path) -> CostModel:
    """Raises ``ConfigError``."""
    return read_toml(path, CostModel)


def save(cost_model: CostModel, path: Path) -> None:
    """Write atomically."""
    fields = msgspec.to_builtins(cost_model)
    kernel_choice = fields.pop("kernel_choice")
    lines = [_line(name, value) for name, value in fields.items()]
    if kernel_choice:
        lines += ["", "[kernel_choice]", *(_line(f'"{shape}"', value) for shape, value in kernel_choice.items())]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _line(key: str, value: str | float) -> str:
    """JSON strings and numbers are TOML ones."""
    return f"{key} = {msgspec.json.encode(value).decode()}"


def measured_or_shipped(path: Path, engine: str) -> CostModel | None:
    """The board's own where ``path`` holds a sound one of this engine, else the shipped one.

    Raises ``ConfigError`` for an unknown engine.
    """
    try:
        own = read(path) if path.is_file() else None
    except ConfigError as error:
        log.warning("%s is passed over, as if nothing had been measured: %s", path, error)
        own = None
    return own if own is not None and own.engine == engine else shipped(engine)


def with_kernels_of(own: CostModel, other: CostModel | None) -> CostModel:
    """What was measured here, with another's choice of kernels; the engine's default where there is no other."""
    return msgspec.structs.replace(own, kernel_choice={} if other is None else other.kernel_choice)


def measure_here(engine: str, machine: str, path: Path, progress: Progress) -> CostModel:
    """Measure this machine and write ``path``. Raises ``ConfigError``, ``DataError``; nothing is written then."""
    try:
        facts = facts_of(engine)
        found = measure(engine, machine, gflops_apart(facts.rated_by), progress)
        if facts.chooses_kernels:
            found = msgspec.structs.replace(found, kernel_choice=measure_kernel_choice(progress))
    except ProfileError as error:
        raise ConfigError(str(error)) from None
    save(found, path)
    return found


def measure(engine: str, machine: str, convolution_gflops: float, progress: Progress) -> CostModel:
    """Measure the standard probes, each in a fresh process: half a minute on a gateway, minutes on a board.

    Raises ``DataError`` where a probe cannot be measured.
    """
    probes, found = standard_probes(engine), []
    for index, request in enumerate(probes):
        progress(f"{request.model.name}, batch {request.batch}", index, len(probes))
        found.append((request, probe(request)))
    progress("", len(probes), len(probes))
    return msgspec.structs.replace(
        fit(engine, found), machine=machine, convolution_gflops=round(convolution_gflops, 3)
    )
