"""What a settings file can say and a run cannot: told when it is read, by the key."""

from __future__ import annotations

import msgspec
import pytest

from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.run_spec import MOST_COUNTED, RunSpec
from tinyfleet.fedcore.settings import read_toml

KINDS = {"run": RunSpec, "coordinator": CoordinatorConfig, "agent": AgentConfig}


def numbers(kind, key=()):
    """(keys, field) of every number in a struct and in the structs below it."""
    for field in msgspec.inspect.type_info(kind).fields:
        names = (*key, field.encode_name)
        if isinstance(field.type, msgspec.inspect.StructType):
            yield from numbers(field.type.cls, names)
        elif isinstance(field.type, msgspec.inspect.FloatType | msgspec.inspect.IntType):
            yield names, field.type


NUMBERS = [(kind, keys, of) for kind in KINDS.values() for keys, of in numbers(kind)]


def read(tmp_path, kind, keys, value):
    *tables, last = keys
    path = tmp_path / "settings.toml"
    path.write_text((f"[{'.'.join(tables)}]\n" if tables else "") + f"{last} = {value}\n", encoding="utf-8")
    return read_toml(path, kind)


def test_there_are_such_numbers():
    assert len(NUMBERS) > 40


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "9223372036854775808", "1" + "0" * 400])
def test_no_number_is_without_end(tmp_path, value):
    """A run is kept and sent as JSON, where infinity is null: it could be submitted, and never read again."""
    for kind, keys, _ in NUMBERS:
        with pytest.raises(ConfigError, match=r"finite|64 bits|Expected|digits"):
            read(tmp_path, kind, keys, value)


def test_the_key_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"settings\.toml: training\.learning_rate is inf; give a finite number"):
        read(tmp_path, RunSpec, ("training", "learning_rate"), "inf")
    with pytest.raises(ConfigError, match=r"model\.input_shape\[1\] is nan"):
        read(tmp_path, RunSpec, ("model", "input_shape"), "[1, nan]")
    with pytest.raises(ConfigError, match=r"method\.density is nan"):
        read(tmp_path, RunSpec, ("method",), '{name = "static", density = nan}')
    with pytest.raises(ConfigError, match=r"data\.source holds a NUL"):
        read(tmp_path, RunSpec, ("data", "source"), '"arrays:\\u0000"')


@pytest.mark.parametrize("keys", [keys for kind, keys, of in NUMBERS if kind is RunSpec and of.le == MOST_COUNTED])
def test_what_is_counted_is_counted_in_a_database(tmp_path, keys):
    """Epochs times steps, attempts times devices: products are written to columns of 64 bits."""
    with pytest.raises(ConfigError, match=f"<= {MOST_COUNTED}"):
        read(tmp_path, RunSpec, keys, MOST_COUNTED + 1)


@pytest.mark.parametrize("keys", [("seed",), ("data", "partition", "seed")])
def test_a_seed_is_not_negative(tmp_path, keys):
    with pytest.raises(ConfigError, match="seed"):
        read(tmp_path, RunSpec, keys, -1)
