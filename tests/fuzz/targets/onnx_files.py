"""ONNX files of others: imported, or refused in words."""

from __future__ import annotations

import random
from pathlib import Path

import onnx

from tests.fedcore.models.onnx_import.files import dense, keras_images, keras_series
from tests.fuzz.mutation import damaged
from tests.fuzz.target import Prepared, Target
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.models.onnx_import.importer import import_onnx
from tinyfleet.fedcore.models.onnx_import.operators import OPERATORS

NUMBERS = (-1, 0, 1, 2, 3, 4, 7, 64, 1 << 20, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
KINDS = (*OPERATORS, "Shape", "Gather", "ConstantOfShape", "Constant", "Loop", "Softmax")


def _seeds(directory: Path) -> list[bytes]:
    path = directory / "seed.onnx"
    return [
        write(path, *more).read_bytes()
        for write, *more in ((keras_images,), (keras_images, "SAME_UPPER"), (keras_series,), (dense,))
    ]


def _vary(rng: random.Random, seed: bytes) -> bytes:
    """Damaged bytes, or a file that is whole and says something else."""
    if rng.random() < 0.3:
        return damaged(rng, seed)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(seed)
    except Exception:  # noqa: BLE001 - a kept input may be none any more
        return damaged(rng, seed)
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, model.graph)
    return model.SerializeToString()


def _change(rng: random.Random, graph: onnx.GraphProto) -> None:
    if not graph.node or not graph.initializer:
        return
    node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
    names = [name for one in graph.node for name in (*one.input, *one.output)] + [""]
    match rng.randrange(7):
        case 0:
            node.op_type = rng.choice(KINDS)
        case 1 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 2 if tensor.dims:
            tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        case 3 if node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(NUMBERS)
            else:
                attribute.i = rng.choice(NUMBERS)
        case 4:
            sides = graph.input[0].type.tensor_type.shape.dim if graph.input else []
            if sides:
                rng.choice(sides).dim_value = rng.choice(NUMBERS)
        case 5 if tensor.raw_data and tensor.data_type == onnx.TensorProto.INT64:
            tensor.raw_data = rng.choice(NUMBERS).to_bytes(8, "little", signed=True) * (len(tensor.raw_data) // 8)
        case _:
            graph.node.append(node)


def _files(directory: Path) -> Prepared:
    path = directory / "model.onnx"

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return import_onnx(path, "fuzzed").graph.flops()

    return Prepared(parse, _seeds(directory), _vary)


ONNX_FILES = (Target("onnx-files", (ConfigError,), _files),)
