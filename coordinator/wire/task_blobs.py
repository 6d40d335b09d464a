"""One step's task as bytes: whole, or without the mask for devices that hold it already; for all, or for one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial

from tinyfleet.coordinator.store.blobs import BlobStore
from tinyfleet.coordinator.wire.transfers import OfferedBlobs
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol import codec
from tinyfleet.fedcore.protocol.messages import Manifest
from tinyfleet.fedcore.run_spec import WireSettings
from tinyfleet.fedcore.sparsity.mask import mask_digest


class TaskBlobs:
    """Encodes a variant when the first device needs it, and puts it on offer."""

    def __init__(
        self,
        task: Payload,
        wire: WireSettings,
        blobs: BlobStore,
        offered: OfferedBlobs,
        addressed: Callable[[str], dict[str, bytes]] = lambda device: {},
    ) -> None:
        self._task = task
        self._addressed = addressed  # what is for one device alone
        self.stage = str(task.meta["stage"])
        self.mask_digest = mask_digest(task.mask) if task.mask else None
        self._wire = wire
        self._blobs = blobs
        self._offered = offered
        self._manifests: dict[tuple[bool, str], Manifest] = {}

    def manifest(self, device: str = "", *, with_mask: bool) -> Manifest:
        """The variant's manifest; its chunks may be asked for from now on."""
        with_mask = with_mask or self.mask_digest is None
        raw = self._addressed(device)
        key = with_mask, device if raw else ""
        manifest, most = self._manifests.get(key), self._offered.chunk_bytes
        if manifest is None or manifest.chunk_size > most:  # it may have been made before the broker was there
            # Of what was encoded, not of the file: what happens to that one afterwards is found out.
            make = partial(self._make, raw, with_mask=with_mask)
            blob = make()
            sha256 = hashlib.sha256(blob).hexdigest()
            manifest = self._manifests[key] = Manifest(sha256, len(blob), most)
            path = self._blobs.path(sha256)
            self._offered.offer(path, manifest, blob, make)
        return manifest

    def _make(self, raw: dict[str, bytes], *, with_mask: bool) -> bytes:
        """Encode the variant, and write it to its file: the same bytes each time."""
        task = replace(self._task, raw=self._task.raw | raw) if raw else self._task
        blob = codec.encode(task, precision=self._wire.precision, send_mask=with_mask, compress=self._wire.compress)
        self._blobs.put(blob)
        return blob

    def offer_all(self, devices: Collection[str]) -> None:
        """After a restart: ``devices`` may be in the middle of fetching either variant."""
        for with_mask in (True, False):
            for device in devices:
                self.manifest(device, with_mask=with_mask)

    @property
    def digests(self) -> set[str]:
        """Digests of the variants that were made."""
        return {manifest.sha256 for manifest in self._manifests.values()}
