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
class Measurement:
    """What a board really gives, measured on itself. Rates are medians of several repetitions."""

    usable_memory_bytes: int  # free without taking anything from others
    cores: int  # by affinity and CPU quota
    convolution_gflops: float  # 3x3, 64 channels, 32x32, one thread, as im2col and a matrix product
    memory_bandwidth_gbs: float  # copying 64 MB, bytes read and written
    disk_write_mbs: float  # 16 MB, flushed
    engine: str = "numpy"  # what ran the convolution


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
            lines += [f"{key} = {_value(value)}" for key, value in asdict(self.measured).items()]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, where: str = "profile") -> DeviceProfile:
        """Parse and check. Raises ``ProfileError``."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
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
        data["measured"] = _checked(Measurement, data["measured"], f"{where}: measured")
    profile: DeviceProfile = _checked(DeviceProfile, data, where)
    return profile


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "tuple[str, ...]": (tuple,),
    "Measurement | None": (Measurement, type(None)),
}


def _checked(kind: Any, data: dict[str, Any], where: str) -> Any:
    known = {field.name: field for field in fields(kind)}
    for key, value in data.items():
        if key not in known:
            raise ProfileError(f"{where}: unknown key {key!r}; a profile has {', '.join(known)}")
        wanted = _TYPES[str(known[key].type)]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ProfileError(f"{where}: {key} is {value!r}; give a value of type {known[key].type}")
        if isinstance(value, int | float) and value < 0:
            raise ProfileError(f"{where}: {key} is {value!r}; it cannot be negative")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in data]
    if missing:
        raise ProfileError(f"{where}: {', '.join(missing)} missing")
    return kind(**data)


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
