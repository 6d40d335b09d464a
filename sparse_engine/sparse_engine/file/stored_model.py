"""A model as one file: what is left of its weights, ready to run.

Little-endian throughout::

    4 bytes   "TFSE"
    uint32    version, 1
    uint32    length of the header
    header    JSON: "input_shape", "layers" (fields of ``Layer`` that are not defaults), "arrays", "metadata"
    sections  of every array in the table's order, end to end: positions, then values (fp32 or fp16)
    uint32    CRC-32 of all before it

A line of "arrays" has "name", "shape", "kind" of positions ("whole", "bitmap", "gaps": ``sections.py``), "type"
of values, "count" of values, "position_bytes" and "offset" after the header. There is nothing else in it, and a
file that says of itself what is not so is refused before memory is taken for its arrays.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_engine.file.header import MOST_WEIGHTS, Entry, Header, arrays_of, checked, decode
from sparse_engine.file.sections import (
    Floats,
    Precision,
    Sparse,
    decode_positions,
    decode_values,
    encode_positions,
    encode_values,
)
from sparse_engine.layers import Model, ModelError, Op

MAGIC, VERSION = b"TFSE", 1
START, END = struct.Struct("<4sII"), struct.Struct("<I")
MOST_HEADER = 4 << 20
MOST_BYTES = 1 << 30
SUFFIX = ".tfse"


class StoredArrays(Mapping[str, Sparse]):
    """The arrays of a file by name, each decoded when it is asked for: whole they take several times the file."""

    def __init__(self, table: tuple[Entry, ...], sections: NDArray[np.uint8]) -> None:
        self._table = {entry.name: entry for entry in table}
        self._sections = sections

    def __getitem__(self, name: str) -> Sparse:
        return _array(self._table[name], self._sections)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


@dataclass(frozen=True, slots=True, eq=False)
class StoredModel:
    """A model and all of its numbers, named as in ``Network``."""

    model: Model
    arrays: Mapping[str, Sparse]
    metadata: Mapping[str, str] = field(default_factory=dict)


def dump(
    model: Model,
    params: Mapping[str, Floats],
    mask: Mapping[str, NDArray[np.bool_]] | None = None,
    precision: Precision = "fp32",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The file's content. Of weights those of the mask are kept; without a mask those that are not zero.

    ``precision`` is that of convolutions' and linear layers' weights. Raises ``ModelError``.
    """
    checked(model)
    weights = {f"{layer.name}.weight" for layer in model.layers if layer.op in (Op.CONV, Op.LINEAR)}
    table, sections, offset = [], [], 0
    for name, shape in arrays_of(model).items():
        if name not in params or params[name].shape != shape:
            raise ModelError(f"{name} is to have shape {shape}; give it in params")
        values = np.ascontiguousarray(params[name], np.float32).reshape(-1)
        if not 0 < values.size <= MOST_WEIGHTS:
            raise ModelError(f"{name} has {values.size} values; a file holds 1 to {MOST_WEIGHTS} a layer")
        sparse = name in weights
        active = mask.get(name) if sparse and mask is not None else None
        if active is not None and active.shape != shape:
            raise ModelError(f"the mask of {name} has shape {active.shape}, not {shape}")
        kept = (values != 0) if active is None else active.reshape(-1)
        positions = np.flatnonzero(kept) if sparse else np.arange(values.size)
        kind, coded = encode_positions(positions, values.size)
        type_: Precision = precision if sparse else "fp32"
        sections += [coded, encode_values(values[positions], type_, name)]
        table.append(Entry(name, shape, kind, type_, len(positions), len(coded), offset))
        offset += table[-1].stored_bytes
    header = Header(model, tuple(table), metadata or {}).encode()
    decode(header, offset)  # what cannot be read back is not written
    content = b"".join([START.pack(MAGIC, VERSION, len(header)), header, *sections])
    return content + END.pack(zlib.crc32(content))


def load_bytes(data: bytes) -> StoredModel:
    """What ``dump`` wrote. Raises ``ModelError`` for anything else."""
    whole = memoryview(data)
    header_bytes = _start(data[: START.size], len(data))
    if END.unpack(whole[-END.size :])[0] != zlib.crc32(whole[: -END.size]):
        raise ModelError("damaged model file: its checksum does not match; copy or export the file again")
    first, last = START.size + header_bytes, len(data) - END.size
    header = decode(bytes(whole[START.size : first]), last - first)
    arrays = StoredArrays(header.arrays, np.frombuffer(whole[first:last], np.uint8))
    for name in arrays:
        arrays[name]  # raises where it is damaged
    return StoredModel(header.model, arrays, header.metadata)


def read(path: str | os.PathLike[str]) -> StoredModel:
    """The model in a file. Raises ``ModelError`` for another file, ``OSError`` where it cannot be read."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _start(file.read(START.size), size)
        file.seek(0)
        return load_bytes(file.read(size))


def _start(start: bytes, size: int) -> int:
    """Length of the header of a file of that size."""
    least = START.size + END.size
    if len(start) < START.size or size < least or not start.startswith(MAGIC):
        raise ModelError(
            "not a model file of the sparse engine; export one with `tinyfleet export --format sparse-fp32`"
        )
    _, version, header_bytes = START.unpack(start)
    if version != VERSION:
        raise ModelError(f"model file of version {version}, and this engine reads {VERSION}; bring it up to date")
    if size > MOST_BYTES or header_bytes > min(MOST_HEADER, size - least):
        raise ModelError(
            f"damaged model file: {size} bytes with a header of {header_bytes}; copy or export the file again"
        )
    return int(header_bytes)


def _array(entry: Entry, sections: NDArray[np.uint8]) -> Sparse:
    middle, end = entry.offset + entry.position_bytes, entry.offset + entry.stored_bytes
    positions = decode_positions(entry.kind, sections[entry.offset : middle], entry.count, entry.size, entry.name)
    return Sparse(entry.shape, positions, decode_values(sections[middle:end], entry.type, entry.name))
