"""The JSON header of a model file: layers and a table of arrays. All of it is checked before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NoReturn, cast

from sparse_engine.file.sections import KINDS, TYPES, Kind, Precision
from sparse_engine.layers import Layer, Model, ModelError, Op

MOST_LAYERS = 4096
MOST_VALUES = 1 << 24  # of one sample's activation: an ImageNet stem has 800,000
MOST_WEIGHTS = (1 << 31) - 1  # of a layer, zeros included
MOST_CHANNELS = 1 << 20  # or inputs of a linear layer
MOST_WINDOW = 1024  # kernel, stride, padding
DEFAULTS = {field.name: field.default for field in fields(Layer) if field.default is not MISSING}


@dataclass(frozen=True, slots=True)
class Entry:
    """An array's line in the table. ``offset`` counts from the end of the header."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    type: Precision
    count: int
    position_bytes: int
    offset: int

    @property
    def size(self) -> int:
        """Entries of the array, zeros included."""
        return math.prod(self.shape)

    @property
    def stored_bytes(self) -> int:
        return self.position_bytes + self.count * int(TYPES[self.type].itemsize)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file holds. ``metadata`` is text about the model, such as how its inputs are normalised."""

    model: Model
    arrays: tuple[Entry, ...]
    metadata: Mapping[str, str]

    def encode(self) -> bytes:
        """As JSON; of a layer only what is not a default."""
        document = {
            "input_shape": self.model.input_shape,
            "layers": [
                {f.name: v for f in fields(Layer) if (v := getattr(layer, f.name)) != DEFAULTS.get(f.name)}
                for layer in self.model.layers
            ],
            "arrays": [{f.name: getattr(entry, f.name) for f in fields(Entry)} for entry in self.arrays],
            "metadata": dict(self.metadata),
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def decode(text: bytes, section_bytes: int) -> Header:
    """The header of a file whose arrays take so many bytes. Raises ``ModelError``, before anything is allocated."""
    try:
        document = json.loads(text, parse_constant=_not_finite)
        input_shape, layers, arrays, metadata = _keys(
            document, ("input_shape", "layers", "arrays", "metadata"), "header"
        )
        model = Model(_ints(input_shape, "input_shape", MOST_VALUES), tuple(_layer(row) for row in _rows(layers)))
        for name, shape in checked(model).items():
            if math.prod(shape) > MOST_VALUES:
                raise ModelError(f"layer {name!r} gives {shape}, more than {MOST_VALUES} values a sample")
        table = tuple(_entry(row) for row in _rows(arrays))
        _fits(model, table, section_bytes)
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ModelError("metadata is not text by name")
    except (ModelError, RecursionError, ValueError) as error:
        raise ModelError(f"damaged model file: {error}; copy or export the file again") from None
    return Header(model, table, metadata)


def checked(model: Model) -> dict[str, tuple[int, ...]]:
    """Activation shapes of a model that a file may hold: one that ends with a vector. Raises ``ModelError``."""
    if not 0 < len(model.layers) <= MOST_LAYERS:
        raise ModelError(f"{len(model.layers)} layers; a file holds 1 to {MOST_LAYERS}")
    shapes = model.shapes()
    last = model.layers[-1].name
    if len(shapes[last]) != 1:
        raise ModelError(f"layer {last!r} ends the model with {shapes[last]}; let a vector of classes be its last")
    return shapes


def arrays_of(model: Model) -> dict[str, tuple[int, ...]]:
    """Name and shape of all arrays of a model, as ``Network`` names them."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in model.layers:
        vector = (layer.out_channels,)
        if layer.op in (Op.CONV, Op.LINEAR):
            found[f"{layer.name}.weight"] = layer.weight_shape
            found |= {f"{layer.name}.bias": vector} if layer.bias else {}
            found |= {f"{layer.name}.gain": vector} if layer.weight_norm else {}
        elif layer.op is Op.BATCH_NORM:
            found |= {f"{layer.name}.{what}": vector for what in ("weight", "bias", "running_mean", "running_var")}
    return found


def _fits(model: Model, table: tuple[Entry, ...], section_bytes: int) -> None:
    shapes, offset = arrays_of(model), 0
    if [entry.name for entry in table] != list(shapes):
        raise ModelError("its arrays are not those of its layers")
    for entry in table:
        size, positions = entry.size, entry.position_bytes
        if entry.shape != shapes[entry.name] or not 0 < size <= MOST_WEIGHTS or entry.count > size:
            raise ModelError(f"array {entry.name!r} has {entry.count} values in shape {entry.shape}")
        lengths = {"whole": positions == 0, "bitmap": positions == -(-size // 8), "gaps": positions >= entry.count}
        if not lengths[entry.kind] or entry.offset != offset:
            raise ModelError(f"array {entry.name!r} stands at {entry.offset} with {positions} bytes of positions")
        offset += entry.stored_bytes
    if offset != section_bytes:
        raise ModelError(f"its arrays take {offset} bytes, and there are {section_bytes}")


def _layer(row: Any) -> Layer:
    if not isinstance(row, dict) or not {"name", "op", "inputs"} <= row.keys() <= {f.name for f in fields(Layer)}:
        raise ModelError("a layer without name, operation and inputs, or with something unknown")
    value = DEFAULTS | row
    name = _text(value["name"])
    if not isinstance(value["inputs"], list) or not isinstance(value["bias"], bool):
        raise ModelError(f"layer {name!r} has inputs or a bias of another type")
    if value["op"] not in tuple(Op) or value["weight_norm"] not in ("", "active", "all"):
        raise ModelError(f"layer {name!r} is of an unknown kind, {value['op']!r:.50}")
    for key in ("in_channels", "out_channels", "groups", "start"):
        value[key] = _int(value[key], f"{key} of {name}", MOST_CHANNELS)
    for key in ("kernel", "stride", "padding", "dilation"):
        value[key] = _ints(value[key], f"{key} of {name}", MOST_WINDOW)
    for key in ("gain", "rate"):
        if type(value[key]) not in (int, float) or not abs(value[key]) < 1e30:
            raise ModelError(f"{key} of {name} is no number")
    value["inputs"] = tuple(_text(source) for source in value["inputs"])
    return Layer(**value | {"op": Op(value["op"])})


def _entry(row: Any) -> Entry:
    name, shape, kind, type_, count, positions, offset = _keys(row, tuple(f.name for f in fields(Entry)), "array")
    if kind not in KINDS or type_ not in tuple(TYPES):
        raise ModelError(f"array {_text(name)!r} is of an unknown kind")
    return Entry(
        _text(name),
        _ints(shape, "shape", MOST_WEIGHTS),
        cast("Kind", kind),
        cast("Precision", type_),
        *(_int(value, f"size of {name}", 1 << 40) for value in (count, positions, offset)),
    )


def _keys(row: Any, names: tuple[str, ...], what: str) -> list[Any]:
    if not isinstance(row, dict) or row.keys() != set(names):
        raise ModelError(f"its {what} does not have {', '.join(names)}")
    return [row[name] for name in names]


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > 4 * MOST_LAYERS:
        raise ModelError("its layers and arrays are no lists, or too long")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise ModelError("a name is no text of 1 to 256 characters")
    return value


def _int(value: Any, what: str, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ModelError(f"{what} is {value!s:.50}, not a whole number up to {most}")
    return value


def _ints(value: Any, what: str, most: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > 4:
        raise ModelError(f"{what} is no list of at most 4 numbers")
    return tuple(_int(one, what, most) for one in value)


def _not_finite(word: str) -> NoReturn:
    raise ModelError(f"{word} in its header")
