"""Calibrations on disk: the one that ships with an engine, and the one that a board measured of itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from tinyfleet.device_profiles.measuring.measure import gflops_apart
from tinyfleet.device_profiles.profile import ProfileError
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.models.model import SERIES
from tinyfleet.fedcore.models.registry import MODELS, build
from tinyfleet.fedcore.planning.cost_model import NATIVE, Calibration, fit, standard_probes
from tinyfleet.fedcore.planning.probe import probe
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.settings import read_toml

SHIPPED = Path(__file__).parent / "calibrations"
KERNEL_SECONDS = 30.0
IMAGES, SEQUENCES = (3, 32, 32), (9, 128)  # what models are calibrated for

Progress = Callable[[str, int, int], None]


def shipped(engine: str) -> Calibration | None:
    """What was measured of ``engine`` on a development machine: memory carries over, times only in proportion.

    That of torch holds for ``torch-cuda``'s process too. None for an engine without one.
    """
    path = SHIPPED / f"{engine.removesuffix('-cuda')}.toml"
    return read(path) if path.is_file() else None


def read(path: Path) -> Calibration:
    """Raises ``ConfigError``."""
    return read_toml(path, Calibration)


def save(calibration: Calibration, path: Path) -> None:
    """Write atomically."""
    fields = msgspec.to_builtins(calibration)
    crossovers = fields.pop("crossovers")
    lines = [_line(name, value) for name, value in fields.items()]
    if crossovers:
        lines += ["", "[crossovers]", *(_line(f'"{shape}"', value) for shape, value in crossovers.items())]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _line(key: str, value: str | float) -> str:
    """JSON strings and numbers are TOML ones."""
    return f"{key} = {msgspec.json.encode(value).decode()}"


def measured_or_shipped(path: Path, engine: str) -> Calibration | None:
    """The board's own where ``path`` holds one of this engine, else the shipped one. Raises ``ConfigError``."""
    own = read(path) if path.is_file() else None
    return own if own is not None and own.engine == engine else shipped(engine)


def calibrate_here(engine: str, machine: str, path: Path, told: Progress) -> Calibration:
    """Measure this machine and write ``path``. Raises ``ConfigError``, ``DataError``; nothing is written then."""
    try:
        rate = gflops_apart("numpy" if engine == NATIVE else engine)
        found = calibrate(engine, machine, rate, told)
        if engine == NATIVE:
            found = msgspec.structs.replace(found, crossovers=kernel_crossovers(told))
    except ProfileError as error:
        raise ConfigError(str(error)) from None
    save(found, path)
    return found


def calibrate(engine: str, machine: str, convolution_gflops: float, told: Progress) -> Calibration:
    """Measure the standard probes, each in a fresh process: half a minute on a gateway, minutes on a board.

    Raises ``DataError`` where a probe cannot be measured.
    """
    probes, found = standard_probes(engine), []
    for index, request in enumerate(probes):
        told(f"{request.model.name}, batch {request.batch}", index, len(probes))
        found.append((request, probe(request)))
    told("", len(probes), len(probes))
    return msgspec.structs.replace(
        fit(engine, found), machine=machine, convolution_gflops=round(convolution_gflops, 3)
    )


def kernel_crossovers(told: Progress) -> dict[str, float]:
    """From which density on the native engine's dense kernels are faster here, for the shapes of all our models."""
    from sparse_engine.kernel_choice import measure_kernel_choice
    from tinyfleet.fedcore.training.native.model import model_of

    shapes = {name: SEQUENCES if model.axes == SERIES else IMAGES for name, model in MODELS.items()}
    models = [model_of(build(ModelSettings(name, shape))) for name, shape in shapes.items()]
    found = measure_kernel_choice(
        models, seconds=KERNEL_SECONDS, told=lambda shape, *at: told(f"kernels, {shape}", *at)
    )
    told("", 1, 1)
    return {shape: round(density, 3) for shape, density in found.items()}
