"""What a board is: facts, shipped as TOML or detected, and what was measured on it."""

from __future__ import annotations

import os
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

BOARDS = Path(__file__).parent / "boards"


class ProfileError(ValueError):
    """A profile is malformed; the message names the file, the key and the remedy."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Rate:
    """Arithmetic on one thread. What a zero weight would take counts as none (``rates.py``)."""

    kernel: str  # "dense" or "sparse"
    density: float  # share of the weights that are not zero
    dtype: str  # "fp32" or "fp16"
    gflops: float


@dataclass(frozen=True, slots=True)
class Thermal:
    """A board with all usable cores under load. None: this board has no such sensor."""

    seconds: int
    cores: int
    gflops: float  # of all cores together, in the last quarter
    sustained_share: float  # the last quarter's rate by the first one's
    start_celsius: float | None = None  # before the load
    peak_celsius: float | None = None
    start_clock_mhz: float | None = None  # mean of the groups of cores, in the first second of load
    lowest_clock_mhz: float | None = None
    throttled: bool | None = None  # the firmware held back, or the clock was capped


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a board really gives, measured on itself. Rates are lower quartiles of many times."""

    usable_memory_bytes: int  # what can be taken before others lose memory that they use
    cores: int  # by affinity and CPU quota
    convolution_gflops: float  # 3x3, 64 channels, 32x32, one thread, as im2col and a matrix product
    memory_bandwidth_gbs: float  # copying 64 MB, bytes read and written
    disk_write_mbs: float  # 16 MB, flushed
    engine: str = "numpy"  # what ran the convolution and the rates
    rates: tuple[Rate, ...] = ()
    thermal: Thermal | None = None


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A board: what it is by its data sheet or its device tree. Sizes in bytes."""

    name: str
    title: str
    cpu: str
    cores: int
    memory_bytes: int  # of the smallest variant where a board comes in several; detected: what is here
    clock_mhz: int = 0
    architecture: str = "aarch64"
    compatible: tuple[str, ...] = ()  # device tree strings that identify the board, any of them
    gpu: str = ""
    shared_memory: bool = False  # the GPU takes its memory from the same pool
    throttling: str = ""  # where throttling and power limits are read
    torch_at_most: str = ""  # newer builds end with an illegal instruction on this processor
    verified: bool = False  # figures were measured on a real board; else they are the data sheet's
    measured: Measurement | None = None

    def to_toml(self) -> str:
        """TOML text that ``from_toml`` reads back to an equal profile."""
        lines = [f"{key} = {_value(value)}" for key, value in asdict(self).items() if key != "measured"]
        if self.measured is not None:
            lines += ["", "[measured]"]
            facts = asdict(self.measured)
            rates, thermal = facts.pop("rates"), facts.pop("thermal")
            lines += _lines(facts)
            if thermal is not None:
                lines += ["", "[measured.thermal]", *_lines(thermal)]
            for rate in rates:
                lines += ["", "[[measured.rates]]", *_lines(rate)]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, where: str = "profile") -> DeviceProfile:
        """Parse and check. Raises ``ProfileError``."""
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # Python's reader raises more than its own error
            raise ProfileError(f"{where}: not valid TOML: {error}") from None
        return profile_of(data, where)

    def save(self, path: Path) -> None:
        """Write atomically."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(self.to_toml())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def profile_of(data: dict[str, Any], where: str = "profile") -> DeviceProfile:
    """A profile from plain data. Raises ``ProfileError`` for unknown or missing keys and wrong types."""
    data = dict(data)
    if "compatible" in data:
        words = data["compatible"]
        if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
            raise ProfileError(f'{where}: compatible is {words!r}; give a list of texts, as in ["maker,board"]')
        data["compatible"] = tuple(words)
    if isinstance(data.get("measured"), dict):
        data["measured"] = _measurement_of(data["measured"], f"{where}: measured")
    profile: DeviceProfile = _checked(DeviceProfile, data, where)
    return profile


def _measurement_of(data: dict[str, Any], where: str) -> Measurement:
    data = dict(data)
    if isinstance(data.get("thermal"), dict):
        data["thermal"] = _checked(Thermal, data["thermal"], f"{where}.thermal")
    if "rates" in data:
        rows = data["rates"]
        if not isinstance(rows, list | tuple) or not all(isinstance(row, dict) for row in rows):
            raise ProfileError(f"{where}: rates is {rows!r}; give tables, each under [[measured.rates]]")
        data["rates"] = tuple(_checked(Rate, row, f"{where}.rates") for row in rows)
    measurement: Measurement = _checked(Measurement, data, where)
    return measurement


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "tuple[str, ...]": (tuple,),
    "float | None": (float, int, type(None)),
    "bool | None": (bool, type(None)),
    "tuple[Rate, ...]": (tuple,),
    "Thermal | None": (Thermal, type(None)),
    "Measurement | None": (Measurement, type(None)),
}


def _checked(kind: Any, data: dict[str, Any], where: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    for key, value in data.items():
        if key not in known:
            raise ProfileError(f"{where}: unknown key {key!r}; a profile has {', '.join(known)}")
        wanted = _TYPES[str(known[key].type)]
        if isinstance(value, int | float) and not -(2.0**63) < value < 2.0**63:
            raise ProfileError(f"{where}: {key} is no number that a board could have; give one below 2^63")
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ProfileError(f"{where}: {key} is {value!r}; give a value of type {known[key].type}")
        if isinstance(value, int | float) and value < 0 and not key.endswith("_celsius"):
            raise ProfileError(f"{where}: {key} is {value!r}; it cannot be negative")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in data]
    if missing:
        raise ProfileError(f"{where}: {', '.join(missing)} missing")
    return kind(**data)


def _lines(facts: dict[str, Any]) -> list[str]:
    """TOML has no null: what is not known is left out, and read back as its default."""
    return [f"{key} = {_value(value)}" for key, value in facts.items() if value is not None]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, int | float) and not is_dataclass(value):
        return repr(value)
    raise ProfileError(f"a profile cannot hold {value!r}")


def read(path: Path) -> DeviceProfile:
    """Read one profile. Raises ``ProfileError`` where it is missing or malformed."""
    try:
        return DeviceProfile.from_toml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ProfileError(f"{path}: no such profile") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: cannot be read as a profile: {error}") from None


def shipped() -> dict[str, DeviceProfile]:
    """The profiles that come with the package, by name."""
    return {path.stem: read(path) for path in sorted(BOARDS.glob("*.toml"))}
