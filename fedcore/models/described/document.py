"""A graph as plain data: it travels in a run, and a board trains a model that no code of it knows by name."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.foreign.bounds import DataBounds, check_bounds
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node
from tinyfleet.fedcore.models.layers.table import DEFAULTS

VERSION = 1
# An offer carries the whole run, and is read up to 64 KiB and 4096 values: room is left for all other settings.
MOST_BYTES = 36 * 1024  # of the canonical JSON
MOST_VALUES = 3600
MOST_NODES = 640
MOST_NAME = 64  # characters
MOST_SIZE = 1 << 20  # any number of a layer, any side of the input
MOST_PARAMETERS = 1 << 28  # 1 GiB in fp32
MOST_ACTIVATION = 1 << 26  # values of one layer's output, of one sample

_BOUNDS = DataBounds(depth=5, values=MOST_VALUES, text=MOST_NAME, magnitude=MOST_SIZE + 1)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*\Z")
_KEYS = {"version", "name", "input_shape", "classes", "nodes", "blocks"}
_NODE_KEYS = tuple(field.name for field in fields(Node))


class _Head(msgspec.Struct, frozen=True):
    name: str
    input_shape: tuple[int, ...]
    classes: int
    nodes: list[dict[str, Any]]
    blocks: tuple[tuple[str, ...], ...]


def document_of(graph: Graph) -> dict[str, Any]:
    """``graph`` as JSON data; attributes that a layer has by default are left out.

    Raises ``ConfigError`` where it is beyond what ``graph_of`` takes: nobody sends what nobody reads.
    """
    document = {
        "version": VERSION,
        "name": graph.name,
        "input_shape": list(graph.input_shape),
        "classes": graph.classes,
        "nodes": [_node_document(node) for node in graph.nodes],
        "blocks": [list(block) for block in graph.blocks],
    }
    graph_of(document)
    return document


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one way to write it: keys sorted, no space, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def digest(graph: Graph) -> str:
    """SHA-256 of the canonical document, in hex: equal for equal models, whoever made them."""
    return hashlib.sha256(canonical(document_of(graph))).hexdigest()


def graph_of(document: Mapping[str, Any]) -> Graph:
    """The graph that a document describes; every bound is checked before anything of its sizes is allocated.

    Raises ``ConfigError``: ``UnsupportedLayer`` for a kind that this version does not know.
    """
    where = "model.graph"
    try:
        check_bounds(dict(document), where, _BOUNDS)
    except CodecError as error:
        raise ConfigError(f"{error}; a model that travels is smaller than that") from None
    if (version := document.get("version")) != VERSION or isinstance(version, bool):
        raise ConfigError(f"{where}: version {version!r}; this tinyfleet reads {VERSION}: update it, or send that")
    if odd := sorted(set(document) - _KEYS):
        raise ConfigError(f"{where}: unknown key {printable(repr(odd[0]), 80)}; it has {', '.join(sorted(_KEYS))}")
    if (size := len(canonical(document))) > MOST_BYTES:
        raise ConfigError(f"{where}: {size} bytes; at most {MOST_BYTES} fit an offer: name layers shorter")
    head = _converted({key: value for key, value in document.items() if key != "version"}, _Head, where)
    if not 0 < len(head.nodes) <= MOST_NODES:
        raise ConfigError(f"{where}: {len(head.nodes)} layers; give 1 to {MOST_NODES}")
    check_name(head.name, f"{where}.name")
    _check_sizes((*head.input_shape, head.classes), f"{where}.input_shape and classes")
    if not 1 <= len(head.input_shape) <= 3:
        raise ConfigError(f"{where}.input_shape: {list(head.input_shape)}; give channels and up to two sides")
    nodes = tuple(_node_of(data, f"{where}.nodes[{index}]") for index, data in enumerate(head.nodes))
    graph = Graph(head.name, head.input_shape, head.classes, nodes, head.blocks)
    check_graph(graph)
    return graph


def check_graph(graph: Graph) -> None:
    """Bounds of what a model would allocate, and that it ends in one number a class. Raises ``ConfigError``."""
    for name, shape in graph.shapes.items():
        if math.prod(shape) > MOST_ACTIVATION:
            raise ConfigError(f"model {graph.name}: layer {name!r} gives {shape}; at most {MOST_ACTIVATION} values")
    parameters = sum(spec.size for spec in graph.params.values())
    if parameters > MOST_PARAMETERS:
        raise ConfigError(f"model {graph.name}: {parameters} parameters; at most {MOST_PARAMETERS}")
    if graph.shapes[graph.output] != (graph.classes,):
        raise ConfigError(
            f"model {graph.name}: its last layer {graph.output!r} gives {graph.shapes[graph.output]}; it has to "
            f"give ({graph.classes},), a number a class: set model.classes, or end with a linear layer"
        )


def check_name(name: str, where: str) -> None:
    """Raises ``ConfigError`` for a name that no model or layer may have."""
    if name == INPUT or len(name) > MOST_NAME or not _NAME.match(name):
        raise ConfigError(
            f"{where}: {printable(repr(name), 80)}; use up to {MOST_NAME} letters, digits, _.:-, not {INPUT!r}"
        )


def _node_document(node: Node) -> dict[str, Any]:
    data: dict[str, Any] = {"name": node.name, "op": str(node.op), "inputs": list(node.inputs)}
    for key, usual in DEFAULTS.items():
        value = getattr(node, key)
        if value != usual:
            data[key] = msgspec.to_builtins(value)
    return data


def _node_of(data: Mapping[str, Any], where: str) -> Node:
    if odd := sorted(set(data) - set(_NODE_KEYS)):
        raise ConfigError(
            f"{where}: unknown key {printable(repr(odd[0]), 80)}; this tinyfleet knows "
            f"{', '.join(_NODE_KEYS)}: update it"
        )
    node: Node = _converted(data, Node, where)
    check_name(node.name, f"{where}.name")
    for key in DEFAULTS:
        value = getattr(node, key)
        numbers: Sequence[float] = value if isinstance(value, tuple) else (value,)
        if len(numbers) > 8 or any(
            isinstance(number, int | float) and not -MOST_SIZE <= number <= MOST_SIZE for number in numbers
        ):
            raise ConfigError(f"{where}.{key}: {value!r}; at most 8 numbers of up to {MOST_SIZE}")
    return node


def _converted(data: Mapping[str, Any], kind: type[Any], where: str) -> Any:
    try:
        return msgspec.convert(dict(data), kind, strict=True)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: {printable(str(error), 200)}") from None


def _check_sizes(sizes: Sequence[int], where: str) -> None:
    if any(not 1 <= size <= MOST_SIZE for size in sizes):
        raise ConfigError(f"{where}: {list(sizes)}; each is from 1 to {MOST_SIZE}")
