"""Models that others send: files of the native engine, graphs of runs. Refused, or run without harm."""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np

from sparse_engine import Layer, Model, ModelError, Network, Op, dump, load
from tests.fuzz.mutation import damaged, damaged_json, json_bytes, vary_json
from tests.fuzz.target import Prepared, Target
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.foreign.documents import read_document
from tinyfleet.fedcore.models.described.document import canonical, document_of, graph_of
from tinyfleet.fedcore.models.registry import build
from tinyfleet.fedcore.run_spec import ModelSettings

START, END = struct.Struct("<4sII"), struct.Struct("<I")  # magic, version, bytes of the header; checksum
MOST_VALUES = 200_000  # of a sample that is computed: a legal model may be larger than a test has time for


def _models() -> list[Model]:
    conv = Layer("c1", Op.CONV, ("input",), 1, 4, (3, 3), (1, 1), (1, 1), bias=True)
    image = (
        conv,
        Layer("bn", Op.BATCH_NORM, ("c1",), 4, 4),
        Layer("r", Op.RELU, ("bn",)),
        Layer("c2", Op.CONV, ("r",), 4, 4, (3, 3), (2, 2), (1, 1), groups=2),
        Layer("f", Op.FLATTEN, ("c2",)),
        Layer("o", Op.LINEAR, ("f",), 64, 3, bias=True),
    )
    series = (
        Layer("c1", Op.CONV, ("input",), 2, 3, (3,), (1,), (1,)),
        Layer("a", Op.ADD, ("c1", "c1")),
        Layer("g", Op.GLOBAL_AVG_POOL, ("a",)),
        Layer("o", Op.LINEAR, ("g",), 3, 2),
    )
    gated = (
        Layer("c1", Op.CONV, ("input",), 2, 6, (3, 3), (2, 1), (0, 1, 1, 1), dilation=(1, 2)),
        Layer("h", Op.HARD_SWISH, ("c1",)),
        Layer("m", Op.MAX_POOL, ("h",), kernel=(2, 2), stride=(2, 2), padding=(0, 0, 1, 1)),
        Layer("s", Op.SLICE, ("m",), 6, 4, start=2),
        Layer("u", Op.SHUFFLE, ("s",), groups=2),
        Layer("p", Op.UPSAMPLE, ("u",), kernel=(2, 2)),
        Layer("x", Op.CROP, ("p",), padding=(0, 1, 1, 0)),
        Layer("g", Op.GLOBAL_AVG_POOL, ("x",)),
        Layer("l", Op.LINEAR, ("g",), 4, 4),
        Layer("t", Op.SIGMOID, ("l",)),
        Layer("w", Op.MUL, ("x", "t")),
        Layer("j", Op.CONCAT, ("w", "x")),
        Layer("e", Op.GLOBAL_AVG_POOL, ("j",)),
        Layer("o", Op.LINEAR, ("e",), 8, 2),
    )
    return [Model((1, 8, 8), image), Model((2, 12), series), Model((2, 9, 9), gated)]


def _seeds() -> list[bytes]:
    rng = np.random.default_rng(8)
    found = []
    for model in _models():
        params = {
            name: np.abs(rng.standard_normal(value.shape)).astype(np.float32)
            for name, value in Network(model, 1).get().items()
        }
        for density in (1.0, 0.3, 0.05):
            mask = {name: rng.random(p.shape) < density for name, p in params.items() if p.ndim > 1}
            found += [dump(model, params, mask, precision) for precision in ("fp32", "fp16")]
    return found


def _vary(rng: random.Random, seed: bytes) -> bytes:
    """Damage with a checksum that fits, mostly: else nothing behind it is reached."""
    if rng.random() < 0.1:
        return damaged(rng, seed)
    magic, version, length = START.unpack(seed[: START.size])
    begin = START.size
    head, body = seed[begin : begin + length], seed[begin + length : -END.size]
    match rng.randrange(4):
        case 0:
            body = damaged(rng, body)
        case 1:
            head = damaged(rng, head)
        case 2:
            head = json_bytes(damaged_json(rng, json.loads(head)))
        case _:
            head = json_bytes(_other_sizes(rng, json.loads(head)))
    whole = START.pack(magic, version, len(head)) + head + body
    return whole + END.pack(zlib.crc32(whole))


def _other_sizes(rng: random.Random, document: dict) -> dict:
    layer = rng.choice(document["layers"])
    sizes = [key for key in layer if key not in ("name", "op", "inputs", "bias")]
    if not sizes or rng.random() < 0.3:
        document["input_shape"] = [rng.choice((1, 2, 3, 8, 12, 64, 1000)) for _ in document["input_shape"]]
        return document
    key = rng.choice(sizes)
    if isinstance(layer[key], list) and layer[key]:
        layer[key][rng.randrange(len(layer[key]))] = rng.choice((0, 1, 2, 3, 5, 7, 8, 9, 100, 1024))
    else:
        layer[key] = rng.choice((0, 1, 2, 3, 4, 5, 8, 16, 17, 1000))
    return document


def _files(directory: Path) -> Prepared:
    path = directory / "model.tfse"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        network = load(path)
        if int(np.prod(network.input_shape)) <= MOST_VALUES:
            network.predict(np.full((2, *network.input_shape), 0.5, np.float32))
        return network

    return Prepared(parse, _seeds(), _vary)


def _graphs(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        graph = graph_of(read_document(data, dict))
        if graph.parameter_count() <= MOST_VALUES:
            graph.initial_params(0)
        return graph.flops(), graph.maskable, document_of(graph)

    shapes = {"small_cnn": (1, 8, 8), "resnet8": (3, 8, 8), "sensor_cnn": (2, 20)}
    settings = [
        ModelSettings(name, shape, 3, {"width": 4, "norm": norm})
        for name, shape in shapes.items()
        for norm in ("batch", "nsconv")
    ]
    return Prepared(parse, [canonical(document_of(build(one))) for one in settings], vary_json)


MODELS = (
    Target("model-files", (ModelError,), _files),
    Target("graphs", (ConfigError, CodecError), _graphs),
)
