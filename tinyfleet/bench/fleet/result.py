"""Results of virtual devices: one trained-like answer a step, and of it a different blob for each device."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import msgspec
import numpy as np

from tinyfleet.fedcore.arrays import Mask
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.chunks import DEFAULT_CHUNK_BYTES
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.protocol.messages import Manifest
from tinyfleet.fedcore.protocol.results import encode_result
from tinyfleet.fedcore.run_spec import RunSpec
from tinyfleet.fedcore.sparsity.mask import apply_mask, mask_digest

SAMPLES = 50
_START = struct.Struct("<4sI")  # magic, bytes of the header
_LOSS = b'"loss":0.5'


@dataclass(frozen=True, slots=True)
class VirtualResult:
    """A blob whose body many share."""

    head: bytes
    body: bytes
    manifest: Manifest

    def chunk(self, index: int) -> bytes:
        """Bytes of chunk ``index``."""
        start = index * self.manifest.chunk_size
        stop = min(start + self.manifest.chunk_size, self.manifest.size)
        split = len(self.head)
        return self.head[start:stop] + self.body[max(0, start - split) : max(0, stop - split)]


class StepAnswer:
    """What all devices answer to one task's blob: a small random step from its weights.

    ``masks`` are those that the devices hold, by digest; the task's is added.
    """

    def __init__(self, blob: bytes, spec: RunSpec, masks: dict[str, Mask]) -> None:
        task = decode(blob, held=masks.get)
        masks[mask_digest(task.mask)] = task.mask
        rng = np.random.default_rng(spec.seed)
        params = {
            name: value + np.float32(1e-3) * rng.standard_normal(value.shape, np.float32)
            if not name.endswith(("running_mean", "running_var"))
            else value
            for name, value in task.params.items()
        }
        apply_mask(params, task.mask)
        answer = Payload({"step": task.meta["step"], "samples": SAMPLES, "loss": 0.5}, params, task.mask)
        whole = encode_result(answer, task, spec.wire, None)
        self._magic, length = _START.unpack_from(whole)
        self._header, self._body = whole[_START.size : _START.size + length], whole[_START.size + length :]

    def of(self, number: int) -> VirtualResult:
        """The blob of the device of that number: its loss differs, and so does its hash."""
        header = self._header.replace(_LOSS, _LOSS + b"%07d" % number)
        head = _START.pack(self._magic, len(header)) + header
        digest = hashlib.sha256(head)
        digest.update(self._body)
        size = len(head) + len(self._body)
        return VirtualResult(head, self._body, Manifest(digest.hexdigest(), size, DEFAULT_CHUNK_BYTES))


def spec_of(data: dict[str, object]) -> RunSpec:
    """An offer's run."""
    return msgspec.convert(data, RunSpec)
