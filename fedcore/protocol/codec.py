"""The sparse codec: payloads as blobs. Nothing is unpickled, and nothing is allocated before it is checked.

A blob is ``TFB1``, the header's length (u32, little-endian), the header (JSON), then the body: raw
little-endian sections, each starting at a multiple of 64 bytes, in the order of the header's
entries; zstd-compressed as a whole where that makes it smaller.

- masks: per layer a bitmap or coded gaps, whichever is smaller; left out where the receiver holds
  the mask of that digest,
- tensors: of masked layers the active values only,
- gradients: coded positions, then values as fp16 scaled by the largest,
- raw: bytes as they are; a header without any does not mention them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import zstandard
from msgspec import Meta, Struct

from tinyfleet.fedcore.arrays import AnyArray, Mask, Params
from tinyfleet.fedcore.errors import CodecError, UnknownMask
from tinyfleet.fedcore.payload import Payload, SparseVector
from tinyfleet.fedcore.protocol import positions as coded
from tinyfleet.fedcore.protocol import values as floats
from tinyfleet.fedcore.sparsity.mask import mask_digest

MAGIC = b"TFB1"
ALIGNMENT = 64
MAX_HEADER_BYTES = 16 << 20
_PREFIX = struct.Struct("<4sI")

Size = Annotated[int, Meta(ge=0, le=coded.MAX_SIZE)]
Shape = Annotated[tuple[Size, ...], Meta(max_length=8)]
Name = Annotated[str, Meta(max_length=200)]


class MaskEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One layer's mask: ``size`` bytes of a bitmap, or of ``active`` coded gaps."""

    name: Name
    shape: Shape
    coding: Literal["bitmap", "gaps"]
    active: Size
    size: Size


class TensorEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One tensor: all of its values, or the active ones where ``masked``."""

    name: Name
    shape: Shape
    kind: Literal["fp32", "fp16", "int8"]
    masked: bool = False
    scale: float = 1.0


class GradientEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """``count`` values at positions below ``limit``; the positions take ``size`` bytes."""

    name: Name
    limit: Size
    count: Size
    size: Size
    kind: Literal["fp32", "fp16"]
    scale: float


class RawEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """``size`` bytes."""

    name: Name
    size: Size


class Header(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the body holds. ``mask`` is the digest of the mask that it carries or refers to."""

    meta: dict[str, Any]
    mask: str | None
    masks: list[MaskEntry]
    tensors: list[TensorEntry]
    gradients: list[GradientEntry]
    body: Size
    compressed: bool
    raw: list[RawEntry] = []


_header_decoder = msgspec.json.Decoder(Header)


def _nothing_held(digest: str) -> Mask | None:
    return None


def _size(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


# -- encoding ---------------------------------------------------------------------------


def encode(payload: Payload, *, precision: str = "fp16", send_mask: bool = True, compress: bool = True) -> bytes:
    """One payload as a blob. ``precision`` "fp32" loses nothing.

    Raises ``CodecError`` where a value is not finite.
    """
    sections: list[bytes] = []
    masks = [_encode_mask(name, payload.mask[name], sections) for name in payload.mask] if send_mask else []
    tensors = [_encode_tensor(name, payload, precision, sections) for name in payload.params]
    gradients = [_encode_gradient(name, payload, precision, sections) for name in payload.gradients]
    raw = [RawEntry(name, len(data)) for name, data in payload.raw.items()]
    body = b"".join(_aligned([*sections, *payload.raw.values()]))
    packed = zstandard.ZstdCompressor(level=3).compress(body) if compress and body else body
    compressed = len(packed) < len(body)
    header = Header(
        payload.meta,
        mask_digest(payload.mask) if payload.mask else None,
        masks,
        tensors,
        gradients,
        len(body),
        compressed,
        raw,
    )
    head = msgspec.json.encode(header)
    return _PREFIX.pack(MAGIC, len(head)) + head + (packed if compressed else body)


def quantise(params: Params, precision: str) -> Params:
    """``params`` as the other side will decode them when they travel at ``precision``."""
    return {name: floats.travelled(array, array.ndim, precision) for name, array in params.items()}


def _aligned(sections: list[bytes]) -> Iterator[bytes]:
    for section in sections:
        yield section
        yield bytes(-len(section) % ALIGNMENT)


def _encode_mask(name: str, active: AnyArray, sections: list[bytes]) -> MaskEntry:
    where = np.flatnonzero(active)
    # Gaps take a byte an active weight at least.
    bitmap_bytes = -(-active.size // 8)
    gaps = coded.encode_gaps(where) if len(where) < bitmap_bytes else None
    if gaps is not None and len(gaps) < bitmap_bytes:
        sections.append(gaps.tobytes())
        return MaskEntry(name, active.shape, "gaps", len(where), len(gaps))
    sections.append(coded.encode_bitmap(active).tobytes())
    return MaskEntry(name, active.shape, "bitmap", len(where), bitmap_bytes)


def _encode_tensor(name: str, payload: Payload, precision: str, sections: list[bytes]) -> TensorEntry:
    array = payload.params[name]
    active = payload.mask.get(name)
    values = array.reshape(-1) if active is None else array[active]
    try:
        kind: Any = floats.choose(values, array.ndim, precision)
    except CodecError as error:
        raise CodecError(f"{name}: {error}") from None
    scale = floats.int8_scale(values) if kind == "int8" else 1.0
    sections.append(floats.to_bytes(values, kind, scale))
    return TensorEntry(name, array.shape, kind, active is not None, scale)


def _encode_gradient(name: str, payload: Payload, precision: str, sections: list[bytes]) -> GradientEntry:
    where, values = payload.gradients[name]
    peak = float(np.max(np.abs(values), initial=0.0))
    if not math.isfinite(peak):
        raise CodecError(f"{name}: a gradient is not finite: training has diverged")
    kind: Literal["fp32", "fp16"] = "fp32" if precision == "fp32" else "fp16"
    scale = floats.gradient_scale(values, precision)
    gaps = coded.encode_gaps(where)
    sections += [gaps.tobytes(), floats.to_bytes(values, kind, scale)]
    limit = int(where[-1]) + 1 if len(where) else 0
    return GradientEntry(name, limit, len(where), len(gaps), kind, scale)


# -- decoding ---------------------------------------------------------------------------


def decode(
    blob: bytes, *, held: Callable[[str], Mask | None] = _nothing_held, max_decoded_bytes: int = 1 << 30
) -> Payload:
    """The payload of a blob. ``held`` gives the mask of a digest where the receiver has it.

    Raises ``UnknownMask`` where it has not, ``CodecError`` for a blob that is damaged, lies about
    itself, or would take more than ``max_decoded_bytes``.
    """
    header, start = _read_header(blob)
    _check_sizes(header, max_decoded_bytes)
    reader = _Reader(_body(header, blob[start:], max_decoded_bytes))
    mask = _decode_masks(header, reader)
    if not mask and header.mask is not None:
        found = held(header.mask)
        if found is None:
            raise UnknownMask(header.mask)
        mask = found
    params = {entry.name: _decode_tensor(entry, mask, reader) for entry in header.tensors}
    gradients = {entry.name: _decode_gradient(entry, reader) for entry in header.gradients}
    raw = {entry.name: reader.take(entry.size).tobytes() for entry in header.raw}
    reader.finish()
    return Payload(header.meta, params, mask, gradients, raw)


def mask_ref(blob: bytes) -> str | None:
    """Digest of the mask that a blob carries or refers to. Raises ``CodecError`` where it has no header."""
    return _read_header(blob)[0].mask


class _Reader:
    """Walks the body's aligned sections; never past its end."""

    def __init__(self, body: bytes) -> None:
        self._body = np.frombuffer(body, np.uint8)
        self._at = 0

    def take(self, size: int) -> AnyArray:
        end = self._at + size
        if end > len(self._body):
            raise CodecError("the body ends before its last section")
        section = self._body[self._at : end]
        self._at = end + -size % ALIGNMENT
        return section

    def finish(self) -> None:
        if self._at != len(self._body):
            raise CodecError(f"the body has {len(self._body)} bytes, its sections {self._at}")


def _read_header(blob: bytes) -> tuple[Header, int]:
    if len(blob) < _PREFIX.size:
        raise CodecError(f"blob of {len(blob)} bytes; it is cut short")
    magic, length = _PREFIX.unpack_from(blob)
    end = _PREFIX.size + length
    if magic != MAGIC or length > MAX_HEADER_BYTES or end > len(blob):
        raise CodecError("not a blob of this format, or cut short")
    try:
        return _header_decoder.decode(blob[_PREFIX.size : end]), end
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise CodecError(f"the blob's header is damaged: {error}") from None


def _check_sizes(header: Header, most: int) -> None:
    """Raise ``CodecError`` unless names are unique and everything decoded fits into ``most`` bytes."""
    groups: tuple[list[Any], ...] = (header.masks, header.tensors, header.gradients, header.raw)
    for entries in groups:
        names = [entry.name for entry in entries]
        if len(set(names)) != len(names):
            raise CodecError("the blob names an array twice")
    total = header.body
    total += sum(_size(entry.shape) for entry in header.masks)
    total += sum(4 * _size(entry.shape) for entry in header.tensors)
    total += sum(12 * entry.count for entry in header.gradients)
    total += sum(entry.size for entry in header.raw)
    if total > most:
        raise CodecError(f"the blob would take {total} bytes, at most {most} are given to it")
    scales = [entry.scale for entry in header.tensors] + [entry.scale for entry in header.gradients]
    if not all(map(math.isfinite, scales)):
        raise CodecError("a scale is not finite")


def _body(header: Header, packed: bytes, most: int) -> bytes:
    if not header.compressed:
        if len(packed) != header.body:
            raise CodecError(f"the body has {len(packed)} bytes; its header says {header.body}")
        return packed
    try:
        frame = zstandard.get_frame_parameters(packed)
        # The frame's own word on size and window decides what the decompressor allocates.
        if frame.content_size != header.body or frame.window_size > max(header.body, 1 << 23):
            raise CodecError("the compressed body's size is not what its header says")
        body: bytes = zstandard.ZstdDecompressor().decompress(packed, max_output_size=header.body)
    except zstandard.ZstdError as error:
        if "not enough memory" in str(error):
            raise MemoryError(str(error)) from None
        raise CodecError(f"the compressed body is damaged: {error}") from None
    if len(body) != header.body:
        raise CodecError("the compressed body's size is not what its header says")
    return body


def _decode_masks(header: Header, reader: _Reader) -> Mask:
    mask: Mask = {}
    for entry in header.masks:
        size, data = _size(entry.shape), reader.take(entry.size)
        if entry.coding == "bitmap":
            flat = coded.decode_bitmap(data, size)
            if int(np.count_nonzero(flat)) != entry.active:
                raise CodecError(f"{entry.name}: the mask's count is not what its header says")
        else:
            flat = np.zeros(size, np.bool_)
            flat[coded.decode_gaps(data, entry.active, size)] = True
        mask[entry.name] = flat.reshape(entry.shape)
    if mask and mask_digest(mask) != header.mask:
        raise CodecError("the mask does not have its digest")
    return mask


def _decode_tensor(entry: TensorEntry, mask: Mask, reader: _Reader) -> Any:
    if not entry.masked:
        data = reader.take(_size(entry.shape) * floats.ITEM_BYTES[entry.kind])
        return floats.from_bytes(data, entry.kind, entry.scale).reshape(entry.shape)
    active = mask.get(entry.name)
    if active is None or active.shape != entry.shape:
        raise CodecError(f"{entry.name}: the mask has no layer of this name and shape")
    data = reader.take(int(np.count_nonzero(active)) * floats.ITEM_BYTES[entry.kind])
    array = np.zeros(entry.shape, np.float32)
    array[active] = floats.from_bytes(data, entry.kind, entry.scale)
    return array


def _decode_gradient(entry: GradientEntry, reader: _Reader) -> SparseVector:
    where = coded.decode_gaps(reader.take(entry.size), entry.count, entry.limit)
    data = reader.take(entry.count * floats.ITEM_BYTES[entry.kind])
    return SparseVector(where, floats.from_bytes(data, entry.kind, entry.scale))
