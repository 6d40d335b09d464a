"""All kinds by name, and the refusal of what is not known of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module
from typing import TypeVar

from tinyfleet.fedcore.errors import ConfigError, UnsupportedLayer
from tinyfleet.fedcore.models.layers.kind import LayerKind, Shape
from tinyfleet.fedcore.models.node import Node, Op

T = TypeVar("T")
DEFAULTS = {f.name: f.default for f in fields(Node) if f.name not in ("name", "op", "inputs")}


def _read(op: Op) -> LayerKind:
    kind: LayerKind = import_module(f"tinyfleet.fedcore.models.layers.{op.value}").KIND
    if kind.name != op:
        raise TypeError(f"layers/{op.value}.py describes {kind.name!r}; a kind has its file's name")
    return kind


KINDS: dict[str, LayerKind] = {op.value: _read(op) for op in Op}


def kind_of(node: Node) -> LayerKind:
    """The facts of a layer's kind. Raises ``UnsupportedLayer``."""
    return known(KINDS.get(node.op), node, "this version of tinyfleet")


def known(fact: T | None, node: Node, consumer: str, remedy: str = "") -> T:
    """A fact of a layer's kind, or an entry for it in a table of ``consumer``'s. Raises ``UnsupportedLayer``."""
    if fact is None:
        raise UnsupportedLayer(node.op, node.name, consumer, remedy)
    return fact


def output_shape(node: Node, sources: Sequence[Shape]) -> Shape:
    """What a layer makes of inputs of these shapes. Raises ``ConfigError`` where they or its kind do not fit it."""
    if fault := _fault(node, sources):
        after = ", ".join(str(shape) for shape in sources)
        raise ConfigError(f"layer {node.name!r} ({node.op}) after {after}: {fault}")
    return kind_of(node).shape(node, sources)


def _fault(node: Node, sources: Sequence[Shape]) -> str:
    kind = kind_of(node)
    odd = [name for name, usual in DEFAULTS.items() if name not in kind.attributes and getattr(node, name) != usual]
    if odd:
        return f"such a layer has no {', '.join(odd)}"
    if kind.inputs is not None and len(sources) != kind.inputs:
        return f"it takes {kind.inputs} inputs, not {len(sources)}"
    if any(len(shape) not in kind.ranks for shape in sources):
        return f"it takes inputs of {' or '.join(str(rank) for rank in sorted(kind.ranks))} dimensions"
    return kind.fault(node, sources)
