"""A step whose state, task and results all travel through the codec, as they do live."""

from __future__ import annotations

from tinyfleet.fedcore.methods.method import Control
from tinyfleet.fedcore.protocol.codec import decode, encode


def run_wired_step(method, engine, state, data):
    """The new state and the results as the coordinator decodes them."""
    wire = method.problem.wire_precision
    state = decode(encode(state, precision="fp32"))  # as the coordinator stores it
    task = decode(encode(method.configure_round(state), precision=wire))
    fold, results = method.begin_fold(state), []
    for device in data:
        result = method.run(task, engine, device, Control())
        blob = encode(result, precision=method.upload_precision or wire, send_mask=False)
        results.append(decode(blob, held=lambda digest: task.mask))
        method.fold(fold, results[-1])
    return method.finish_round(state, fold), results
