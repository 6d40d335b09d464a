"""Settings read from TOML or JSON: validated once, at the edge, with errors that name the nearest key."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tinyfleet.device_profiles.suggestions import nearest
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import read_file

T = TypeVar("T")

MOST_BYTES = 1 << 20  # of a file that a person writes


def convert(data: Any, kind: type[T], where: str, strict: bool = True) -> T:
    """Validate plain data as ``kind`` (a msgspec Struct with ``forbid_unknown_fields``).

    ``where`` names the source in the message; without ``strict``, "3" is a number. Raises ``ConfigError``.
    """
    try:
        _check_values(data, where)
        return msgspec.convert(data, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}{_nearest(str(error), kind)}") from None
    except (OverflowError, RecursionError):
        raise ConfigError(f"{where}: a number too large for any setting, or nested without end") from None


def read_toml(path: Path, kind: type[T]) -> T:
    """Read and validate a TOML file. Raises ``ConfigError`` with the path, the value and the remedy."""
    try:
        data = tomllib.loads(read_file(path, MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a TOML file") from None
    except (ValueError, RecursionError) as error:  # Python's reader raises more than its own error
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return convert(data, kind, str(path))


def _check_values(data: Any, where: str, key: str = "") -> None:
    """Refuse what TOML can say and JSON, a database or a path cannot: a run is kept and sent as JSON."""
    if isinstance(data, dict):
        for name, value in data.items():
            _check_values(value, where, f"{key}.{name}" if key else name)
    elif isinstance(data, list):
        for number, value in enumerate(data):
            _check_values(value, where, f"{key}[{number}]")
    elif isinstance(data, float) and not math.isfinite(data):
        raise ConfigError(f"{where}: {key} is {data}; give a finite number")
    elif isinstance(data, int) and not -(2**63) <= data < 2**63:
        raise ConfigError(f"{where}: {key} is beyond 64 bits; give a smaller number")
    elif isinstance(data, str) and "\0" in data:
        raise ConfigError(f"{where}: {key} holds a NUL character, which no name, path or address has")


def _nearest(message: str, kind: type[Any]) -> str:
    """`` (did you mean `x`?)`` where the message complains about an unknown field."""
    if "unknown field" not in message:
        return ""
    unknown = message.partition("unknown field `")[2].partition("`")[0]
    near = nearest(unknown, sorted(_field_names(kind, set())))
    return f" (did you mean `{near}`?)" if near else ""


def _field_names(kind: Any, seen: set[Any]) -> set[str]:
    """Field names of a struct and of every struct that it holds."""
    names: set[str] = set()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        for item in msgspec.structs.fields(kind):
            names.add(item.encode_name)
            for inner in (item.type, *getattr(item.type, "__args__", ())):
                names |= _field_names(inner, seen)
    return names
