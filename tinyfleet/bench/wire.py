"""What one round costs on the wire, by model, density and precision: blob sizes, and bytes at the socket."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from tinyfleet.fedcore.errors import TransportError
from tinyfleet.fedcore.lookup import lookup
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.model import SERIES
from tinyfleet.fedcore.models.registry import DOOR, MODELS, build
from tinyfleet.fedcore.payload import Json, Payload
from tinyfleet.fedcore.protocol import messages, topics
from tinyfleet.fedcore.protocol.brokers.mosquitto import MosquittoBroker
from tinyfleet.fedcore.protocol.chunks import (
    DEFAULT_CHUNK_BYTES,
    Receiver,
    manifest_of,
    pack_chunk,
    read_chunk,
    unpack_chunk,
)
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.protocol.messages import ChunkRequest, Manifest, TaskOffer
from tinyfleet.fedcore.protocol.mqtt import MqttTransport
from tinyfleet.fedcore.protocol.transport import Connected, Received
from tinyfleet.fedcore.run_spec import ModelSettings
from tinyfleet.fedcore.sparsity.allocation import erk_mask
from tinyfleet.fedcore.sparsity.mask import apply_mask, mask_digest

T = TypeVar("T")
INPUTS = {"small_cnn": (1, 28, 28)}
IMAGE, WINDOW = (3, 32, 32), (6, 100)  # of others, by the axes of their input
REQUEST_CHUNKS = 8
DEVICE = "bench"
PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class WireRow:
    """One model at one density and precision. Bytes are per device and round, with the mask already held.

    ``socket_*`` are the kernel's counts at the device's broker socket for the whole exchange, offers,
    chunk requests and MQTT headers included; None without Mosquitto.
    """

    model: str
    density: float
    precision: str
    bytes_down: int
    bytes_down_new_mask: int
    bytes_up: int
    dense_bytes: int  # float32, dense: one direction of FedAvg
    encode_ms: float
    decode_ms: float
    socket_bytes_down: int | None = None
    socket_bytes_up: int | None = None


def graph_of(model: str) -> Graph:
    """The model at the input it is meant for, with 10 classes."""
    usual = WINDOW if lookup("model", model, MODELS, DOOR).axes == SERIES else IMAGE
    return build(ModelSettings(name=model, input_shape=INPUTS.get(model, usual), classes=10))


def payload_of(graph: Graph, density: float, seed: int = 0) -> Payload:
    """A trained-like state: random weights under a random ERK mask, which compresses like real ones."""
    params = graph.initial_params(seed)
    mask = erk_mask(graph.maskable_shapes, density, np.random.default_rng(seed))
    apply_mask(params, mask)
    rng = np.random.default_rng(seed + 1)
    for name in graph.statistics:
        params[name] = np.abs(rng.standard_normal(params[name].shape, np.float32)) + np.float32(0.1)
    meta: dict[str, Json] = {
        "step": 7,
        "stage": "train",
        "round": 5,
        "normalization": {"mean": [0.13], "std": [0.31], "scale": 255.0},
    }
    return Payload(meta, params, mask)


def bench_wire(
    models: Iterable[str],
    densities: Iterable[float],
    precisions: Iterable[str],
    repeats: int = 5,
    progress: Callable[[WireRow, int, int], None] = lambda row, done, total: None,
) -> list[WireRow]:
    """Measure every combination; times are medians of ``repeats``."""
    cells = [(m, d, p) for m in models for d in densities for p in precisions]
    rows = []
    for model, density, precision in cells:
        rows.append(_row(model, density, precision, repeats))
        progress(rows[-1], len(rows), len(cells))
    return rows


def _row(model: str, density: float, precision: str, repeats: int) -> WireRow:
    graph = graph_of(model)
    task = payload_of(graph, density)
    digest = mask_digest(task.mask)
    down, encode_ms = _timed(lambda: encode(task, precision=precision, send_mask=False), repeats)
    decoded, decode_ms = _timed(
        lambda: decode(down, held=lambda asked: task.mask if asked == digest else None), repeats
    )
    result = Payload({"step": 7, "samples": 1000, "loss": 0.25}, decoded.params, task.mask)
    up = encode(result, precision=precision, send_mask=False)
    socket = socket_bytes(down, up) if MosquittoBroker.available() else (None, None)
    return WireRow(
        model=model,
        density=density,
        precision=precision,
        bytes_down=len(down),
        bytes_down_new_mask=len(encode(task, precision=precision)),
        bytes_up=len(up),
        dense_bytes=4 * sum(spec.size for spec in graph.params.values()),
        encode_ms=encode_ms,
        decode_ms=decode_ms,
        socket_bytes_down=socket[0],
        socket_bytes_up=socket[1],
    )


def _timed(run: Callable[[], T], repeats: int) -> tuple[T, float]:
    times = []
    for _ in range(max(1, repeats)):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return result, round(statistics.median(times) * 1e3, 3)


def socket_bytes(down: bytes, up: bytes) -> tuple[int, int]:
    """(received, sent) at the device's socket when ``down`` is fetched and ``up`` delivered through Mosquitto."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        broker = MosquittoBroker(directory / "broker")
        url = f"mqtt://127.0.0.1:{broker.start()}"
        ends = (MqttTransport(url, "device"), MqttTransport(url, "coordinator"))
        try:
            ends[0].open((topics.down(DEVICE), topics.down_chunk(DEVICE)))
            ends[1].open((topics.ALL_UP, topics.ALL_UP_CHUNKS))
            for end in ends:
                if end.receive(PATIENCE_S) != Connected():
                    raise TransportError("Mosquitto did not let the bench connect")
            device, coordinator = ends
            before = device.bytes_received, device.bytes_sent
            _transfer(directory / "down", down, coordinator, topics.down, topics.down_chunk, device, topics.up)
            _transfer(directory / "up", up, device, topics.up, topics.up_chunk, coordinator, topics.down)
            return device.bytes_received - before[0], device.bytes_sent - before[1]
        finally:
            for end in ends:
                end.close()
            broker.stop()


def _transfer(
    directory: Path,
    blob: bytes,
    sender: MqttTransport,
    offer_topic: Callable[[str], str],
    chunk_topic: Callable[[str], str],
    receiver: MqttTransport,
    request_topic: Callable[[str], str],
) -> None:
    """One blob from sender to receiver by the real protocol: offer, requests, chunks."""
    directory.mkdir()
    source = directory / "source"
    source.write_bytes(blob)
    manifest = manifest_of(source, DEFAULT_CHUNK_BYTES)
    offer = TaskOffer("bench", 7, "train", 60.0, manifest, {}, base="0" * 64)
    sender.publish(offer_topic(DEVICE), messages.encode(offer))
    _payload(receiver)
    incoming = Receiver(directory, manifest)
    while (missing := incoming.request(REQUEST_CHUNKS)) is not None:
        request = ChunkRequest(manifest.sha256, *missing)
        receiver.publish(request_topic(DEVICE), messages.encode(request))
        _payload(sender)
        _send(sender, chunk_topic(DEVICE), source, manifest, missing)
        for _ in range(missing[1]):
            incoming.accept(unpack_chunk(_payload(receiver)))
    incoming.finish()


def _send(sender: MqttTransport, topic: str, source: Path, manifest: Manifest, span: tuple[int, int]) -> None:
    for index in range(span[0], span[0] + span[1]):
        sender.publish(topic, pack_chunk(manifest.sha256, index, read_chunk(source, manifest, index)))


def _payload(transport: MqttTransport) -> bytes:
    event = transport.receive(PATIENCE_S)
    if not isinstance(event, Received):
        raise TransportError(f"the bench lost its broker: {event}")
    return event.payload
