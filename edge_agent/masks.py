"""Masks that this device holds, by digest: a blob that refers to one carries its values alone.

Worker side only (numpy). One directory a run, removed when the run ends.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np

from fedcore.arrays import Mask
from fedcore.files import write_atomic
from fedcore.sparsity.mask import mask_digest

# The current mask, the one before it, and one to spare: adjustment rounds make a new one each.
KEPT_MASKS = 3


class MaskStore:
    """Files ``DIGEST.npz`` of packed bits. A damaged file counts as not held."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, digest: str) -> Mask | None:
        """The mask with this digest, or None."""
        path = self._path(digest)
        try:
            with np.load(path, allow_pickle=False) as archive:
                shapes = json.loads(bytes(archive["shapes"]).decode())
                mask: Mask = {}
                for index, (name, shape) in enumerate(shapes):
                    bits = np.unpackbits(archive[f"bits{index}"], count=int(np.prod(shape)))
                    mask[name] = bits.astype(np.bool_).reshape(shape)
        except (OSError, ValueError, KeyError, EOFError):
            return None
        if mask_digest(mask) != digest:
            return None
        path.touch()  # the least recently used one goes first
        return mask

    def put(self, mask: Mask) -> str:
        """Keep a mask; returns its digest. The oldest beyond ``KEPT_MASKS`` go."""
        digest = mask_digest(mask)
        path = self._path(digest)
        if not path.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            shapes = json.dumps([[name, list(entries.shape)] for name, entries in mask.items()])
            arrays = {f"bits{index}": np.packbits(entries) for index, entries in enumerate(mask.values())}
            buffer = io.BytesIO()
            np.savez(buffer, shapes=np.frombuffer(shapes.encode(), np.uint8), **arrays)
            write_atomic(path, buffer.getvalue())
            kept = sorted(self._directory.glob("*.npz"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
            for old in kept[KEPT_MASKS:]:
                old.unlink()
        return digest

    def _path(self, digest: str) -> Path:
        """Digests come from blobs: only hex digits become a file name."""
        name = digest if digest.isalnum() and len(digest) <= 128 else "invalid"
        return self._directory / f"{name}.npz"
