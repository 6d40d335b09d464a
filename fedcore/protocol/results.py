"""How a device's result travels: live and simulated devices encode it alike."""

from __future__ import annotations

from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import encode
from tinyfleet.fedcore.run_spec import WireSettings
from tinyfleet.fedcore.sparsity.mask import mask_digest


def encode_result(result: Payload, task: Payload, wire: WireSettings, upload_precision: str | None) -> bytes:
    """The result's blob; its mask stays at home where the coordinator sent the same one with ``task``.

    ``upload_precision`` is the method's; None is the run's. Raises ``CodecError`` where a value is not finite.
    """
    same = bool(task.mask) and mask_digest(result.mask) == mask_digest(task.mask)
    return encode(result, precision=upload_precision or wire.precision, send_mask=not same, compress=wire.compress)
