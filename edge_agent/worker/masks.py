"""Masks that this device holds, by digest: a blob that refers to one carries its values alone.

Worker side only (numpy). One directory a run, removed when the run ends.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.files import make_folder, make_room_for, remove, write_atomic
from tinyfleet.fedcore.sparsity.mask import mask_digest

# The current mask, the one before it, and one to spare: adjustment rounds make a new one each.
KEPT_MASKS = 3


class MaskStore:
    """Files ``DIGEST.mask``: one line of JSON with names and shapes, then each mask's bits, packed.

    A damaged file counts as not held.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, digest: str) -> Mask | None:
        """The mask with this digest, or None."""
        path = self._path(digest)
        try:
            header, bits = path.read_bytes().split(b"\n", 1)
            mask: Mask = {}
            start = 0
            for name, shape in json.loads(header):
                count = math.prod(shape)
                if not 0 <= count <= 8 * len(bits):
                    raise ValueError(f"a mask of {count} entries in {len(bits)} bytes")
                packed = np.frombuffer(bits, np.uint8, -(-count // 8), start)
                mask[name] = np.unpackbits(packed, count=count).astype(np.bool_).reshape(shape)
                start += len(packed)
            if mask_digest(mask) != digest:
                return None
        except (OSError, ValueError, TypeError, OverflowError, RecursionError):
            return None
        path.touch()  # the least recently used one goes first
        return mask

    def put(self, mask: Mask) -> str:
        """Keep a mask; returns its digest. The oldest beyond ``KEPT_MASKS`` go."""
        digest = mask_digest(mask)
        path = self._path(digest)
        if self.get(digest) is None:  # missing, or damaged
            make_folder(self._directory)
            make_room_for(path)
            header = json.dumps([[name, list(entries.shape)] for name, entries in mask.items()]).encode()
            write_atomic(
                path, header + b"\n" + b"".join(np.packbits(entries).tobytes() for entries in mask.values())
            )
            # Not by its own time: the board's clock may have been set back.
            others = [file for file in self._directory.glob("*.mask") if file != path]
            for old in sorted(others, key=lambda file: file.stat().st_mtime_ns, reverse=True)[KEPT_MASKS - 1 :]:
                remove(old)
        return digest

    def _path(self, digest: str) -> Path:
        """Digests come from blobs: only hex digits become a file name."""
        name = digest if digest.isalnum() and len(digest) <= 128 else "invalid"
        return self._directory / f"{name}.mask"
