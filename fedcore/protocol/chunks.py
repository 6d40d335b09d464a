"""Blobs in chunks: framing, and a receiver that keeps what arrived on disk.

A chunk message is the blob's SHA-256 (32 bytes), the chunk's index (u32, little-endian) and its
bytes. The receiver asks for ranges, so the window is its own; duplicates and reordering are normal.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from tinyfleet.fedcore.errors import CodecError
from tinyfleet.fedcore.files import make_room_for, remove, sync_directory
from tinyfleet.fedcore.protocol.messages import Manifest

_FRAME = struct.Struct("<32sI")
# With its frame and the MQTT header a chunk passes brokers that stop at 128 KB (AWS IoT Core).
DEFAULT_CHUNK_BYTES = 96 * 1024 - _FRAME.size
# A broker that takes no chunk of this size takes hardly a control message either.
_LEAST_CHUNK_BYTES = 1024
MAX_BLOB_BYTES = 1 << 30
MAX_CHUNKS = 1 << 20
_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """One part of a blob: ``data`` belongs at ``index * chunk_size``."""

    sha256: str
    index: int
    data: bytes


def chunk_bytes(payload_bytes: int | None) -> int:
    """Size of chunks for a broker that takes payloads of so many bytes at most (None: it announced no limit)."""
    if payload_bytes is None or payload_bytes < _LEAST_CHUNK_BYTES + _FRAME.size:
        return DEFAULT_CHUNK_BYTES
    return min(DEFAULT_CHUNK_BYTES, payload_bytes - _FRAME.size)


def hash_file(path: Path) -> str:
    """SHA-256 of a file (hex), read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def manifest_of(path: Path, chunk_size: int) -> Manifest:
    """Describe a file for an offer."""
    return Manifest(hash_file(path), path.stat().st_size, chunk_size)


def pack_chunk(sha256: str, index: int, data: bytes) -> bytes:
    """One chunk as a message payload."""
    return _FRAME.pack(bytes.fromhex(sha256), index) + data


def unpack_chunk(payload: bytes) -> Chunk:
    """Take a chunk message apart. Raises ``CodecError`` where it is too short to be one."""
    if len(payload) < _FRAME.size:
        raise CodecError(f"chunk message of {len(payload)} bytes; its frame alone has {_FRAME.size}")
    digest, index = _FRAME.unpack_from(payload)
    return Chunk(digest.hex(), index, payload[_FRAME.size :])


def chunk_length(manifest: Manifest, index: int) -> int:
    """Bytes of chunk ``index``. Raises ``CodecError`` outside the blob."""
    if not 0 <= index < manifest.count:
        raise CodecError(f"chunk {index} of {manifest.sha256[:12]}; it has {manifest.count}")
    return min(manifest.chunk_size, manifest.size - index * manifest.chunk_size)


def read_chunk(path: Path, manifest: Manifest, index: int) -> bytes:
    """Chunk ``index`` from the blob's file. Raises ``CodecError`` outside the blob or where the file is short."""
    length = chunk_length(manifest, index)
    with path.open("rb") as file:
        file.seek(index * manifest.chunk_size)
        data = file.read(length)
    if len(data) != length:
        raise CodecError(f"{path} is shorter than its manifest says; make the blob again")
    return data


class Receiver:
    """Collects one blob in ``directory``; a new object on the same directory goes on where the old one was.

    Files while it grows: ``SHA256.part`` (sparse, full length) and ``SHA256.have`` (one byte a chunk).
    A chunk's bytes are written before its mark. Marks are not flushed one by one: after a power cut a
    mark may stand for lost bytes, which the hash in ``finish`` finds, and the blob is fetched anew.
    Raises ``CodecError`` for a manifest that promises more than ``max_bytes`` or ``MAX_CHUNKS``.
    """

    def __init__(self, directory: Path, manifest: Manifest, max_bytes: int = MAX_BLOB_BYTES) -> None:
        if manifest.size > max_bytes:
            raise CodecError(f"blob of {manifest.size} bytes; at most {max_bytes} are taken")
        # There is a mark in memory for every chunk: tiny chunks must not make many of them.
        if manifest.count > MAX_CHUNKS:
            raise CodecError(f"blob in {manifest.count} chunks; at most {MAX_CHUNKS} are taken")
        self.manifest = manifest
        self._path = directory / manifest.sha256
        self._part = directory / f"{manifest.sha256}.part"
        self._have_path = directory / f"{manifest.sha256}.have"
        self._have = self._restore()
        self._missing = self._have.count(0)

    def _restore(self) -> bytearray:
        count = self.manifest.count
        for path in (self._part, self._have_path, self._path):
            make_room_for(path)
        with contextlib.suppress(FileNotFoundError):
            have = self._have_path.read_bytes()
            if len(have) == count and self._part.stat().st_size == self.manifest.size:
                return bytearray(have)
        with self._part.open("wb") as part:
            part.truncate(self.manifest.size)
        self._have_path.write_bytes(bytes(count))
        return bytearray(count)

    @property
    def complete(self) -> bool:
        return self._missing == 0

    def accept(self, chunk: Chunk) -> bool:
        """Write one chunk; True if it is new. Raises ``CodecError`` where it does not fit the manifest."""
        if chunk.sha256 != self.manifest.sha256:
            raise CodecError(f"chunk of blob {chunk.sha256[:12]}, {self.manifest.sha256[:12]} was asked for")
        length = chunk_length(self.manifest, chunk.index)
        if len(chunk.data) != length:
            raise CodecError(f"chunk {chunk.index} has {len(chunk.data)} bytes; it must have {length}")
        if self._have[chunk.index]:
            return False
        try:
            self._write(chunk)
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            self._have = self._restore()  # somebody removed what had come
            self._missing = self._have.count(0)
            self._write(chunk)
        self._have[chunk.index] = 1
        self._missing -= 1
        return True

    def _write(self, chunk: Chunk) -> None:
        """The chunk, then its mark."""
        with self._part.open("r+b") as part:
            part.seek(chunk.index * self.manifest.chunk_size)
            part.write(chunk.data)
        with self._have_path.open("r+b") as marks:
            marks.seek(chunk.index)
            marks.write(b"\x01")

    def _is_sound(self) -> bool:
        try:
            return hash_file(self._part) == self.manifest.sha256
        except OSError:
            return False

    def request(self, limit: int) -> tuple[int, int] | None:
        """The first missing range as (start, count), at most ``limit`` chunks; None where none is missing."""
        start = self._have.find(0)
        if start < 0:
            return None
        end = self._have.find(1, start, start + limit)
        stop = end if end >= 0 else min(start + limit, len(self._have))
        return start, stop - start

    def finish(self) -> Path:
        """The whole blob, flushed, its hash verified.

        Raises ``CodecError`` while chunks are missing, and where the hash is wrong: what came is dropped then.
        """
        if not self.complete:
            raise CodecError(f"{self._missing} chunks of {self.manifest.sha256[:12]} are still missing")
        if not self._is_sound():
            remove(self._part)
            remove(self._have_path)
            raise CodecError(f"blob {self.manifest.sha256[:12]} arrived damaged; it must be fetched again")
        with self._part.open("r+b") as part:
            os.fsync(part.fileno())
        self._part.replace(self._path)
        self._have_path.unlink(missing_ok=True)
        sync_directory(self._path.parent)
        return self._path
