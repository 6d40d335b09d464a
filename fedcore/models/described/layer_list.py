"""``model.layers`` of RUN.toml: a model as a list that people read and write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any, get_type_hints

import msgspec

from tinyfleet.device_profiles.suggestions import nearest
from tinyfleet.fedcore.errors import ConfigError, UnsupportedLayer
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.models.described.blocks import Blocks, blocks_of
from tinyfleet.fedcore.models.described.document import MOST_NODES, check_name
from tinyfleet.fedcore.models.graph import INPUT, Graph, Node, Op
from tinyfleet.fedcore.models.layers.kind import LayerKind, Shape
from tinyfleet.fedcore.models.layers.table import KINDS, output_shape

_HINTS: Mapping[str, Any] = MappingProxyType(get_type_hints(Node))
_OURS = ("kind", "name", "inputs", "out")  # keys of every entry; the others are the kind's attributes
_CHANNELS = frozenset({"in_channels", "out_channels"})


def graph_of_layers(
    name: str, input_shape: Shape, classes: int, layers: Sequence[Mapping[str, Any]], blocks: Blocks = ()
) -> Graph:
    """The graph of a list of entries ``{kind, name, inputs, out, ...}``; without blocks those of ``blocks_of``.

    An entry reads the one before unless it names its inputs. Raises ``ConfigError`` naming entry and remedy.
    """
    if not 0 < len(layers) <= MOST_NODES:
        raise ConfigError(f"model.layers: {len(layers)} entries; give 1 to {MOST_NODES}")
    if not input_shape or min(input_shape) < 1:
        raise ConfigError(f"model.input_shape is {input_shape}; give channels and sides above 0")
    listed = _Listed(input_shape, _named(layers))
    for index, entry in enumerate(layers):
        listed.append(index, entry, normed=_norm_follows(layers[index + 1 : index + 2]))
    weighted = Graph(name, input_shape, classes, tuple(listed.nodes), ()).weighted
    chosen = blocks or blocks_of(weighted, listed.shapes)
    return Graph(name, input_shape, classes, tuple(listed.nodes), chosen)


def _norm_follows(rest: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a norm takes what comes before it: its shift is the bias then."""
    return any(entry.get("kind") == Op.BATCH_NORM and "inputs" not in entry for entry in rest)


def _named(layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each: its own, or its kind and a number, counted a kind: conv1, conv2, ..."""
    count: Counter[str] = Counter()
    names = []
    for entry in layers:
        kind = str(entry.get("kind", "layer"))
        count[kind] += 1
        names.append(str(entry.get("name", f"{kind}{count[kind]}")))
    return names


class _Listed:
    """The layers so far."""

    def __init__(self, input_shape: Shape, names: list[str]) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: input_shape}
        self._names = names
        self._last = INPUT

    def append(self, index: int, entry: Mapping[str, Any], *, normed: bool) -> None:
        """Take one entry, which a norm follows or not. Raises ``ConfigError``."""
        name = self._names[index]
        where = f"model.layers[{index}] ({printable(name, 64)})"
        if name in self.shapes:
            raise ConfigError(f"{where}: a layer of this name came before; give each a name of its own")
        check_name(name, f"{where}: name")
        kind = _kind(entry, where)
        inputs = self._inputs(entry, where)
        sources = [self.shapes[source] for source in inputs]
        given = {key: value for key, value in entry.items() if key not in _OURS}
        known = sorted(kind.attributes - _CHANNELS)
        for key in given:
            if key not in known:
                allowed = ", ".join([*_OURS, *known])
                near = nearest(key, [*_OURS, *known])
                hint = f"did you mean {near!r}? " if near else ""
                raise ConfigError(
                    f"{where}: unknown key {printable(repr(key), 80)}; {hint}{kind.name} takes {allowed}"
                )
        values = _spread(given, len(sources[0]) - 1) | self._channels(entry, kind, sources[0], where)
        _assume(values, kind, len(sources[0]) - 1, bias=not normed)
        try:
            node = msgspec.convert({"name": name, "op": kind.name, "inputs": inputs, **values}, Node, strict=True)
            self.shapes[name] = output_shape(node, sources)
        except UnsupportedLayer:
            raise
        except (msgspec.ValidationError, OverflowError, ConfigError) as error:
            raise ConfigError(f"{where}: {error}{_remedy(kind, sources)}") from None
        self.nodes.append(node)
        self._last = name

    def _inputs(self, entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
        given = entry.get("inputs", self._last)
        inputs = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else ()
        if not inputs:
            raise ConfigError(f"{where}: inputs is {given!r}; give a name, or a list of names of earlier layers")
        for source in inputs:
            if source not in self.shapes:
                near = nearest(str(source), list(self.shapes))
                hint = f"did you mean {near!r}?" if near else f"there are {', '.join(list(self.shapes)[-6:])}"
                raise ConfigError(f"{where}: input {printable(repr(source), 80)} is no earlier layer; {hint}")
        return inputs

    def _channels(self, entry: Mapping[str, Any], kind: LayerKind, source: Shape, where: str) -> dict[str, Any]:
        """The numbers of channels that a kind has: those that come in are seen, ``out`` is said."""
        found: dict[str, Any] = {}
        if "in_channels" in kind.attributes:
            found["in_channels"] = source[0]
        if "out_channels" in kind.attributes:
            follows = kind.affine is not None  # a norm has as many as come in
            if "out" not in entry and not follows:
                raise ConfigError(f"{where}: say how many channels it gives: out = {source[0]}, for example")
            found["out_channels"] = entry.get("out", source[0])
        elif "out" in entry:
            raise ConfigError(f"{where}: a {kind.name} gives as many channels as its inputs say; leave out = away")
        return found


def _assume(values: dict[str, Any], kind: LayerKind, dimensions: int, *, bias: bool) -> None:
    """What is not said: stride 1 (of a pool: its kernel), half of the kernel as padding (of a pool: none)."""
    learns = "out_channels" in kind.attributes
    if "kernel" in kind.attributes and isinstance(kernel := values.get("kernel"), list):
        if "stride" in kind.attributes:
            values.setdefault("stride", [1] * dimensions if learns else kernel)
        halves = [size // 2 if learns and isinstance(size, int) else 0 for size in kernel]
        if "padding" in kind.attributes:
            values.setdefault("padding", halves)
    if "bias" in kind.attributes:
        values.setdefault("bias", bias)


def _kind(entry: Mapping[str, Any], where: str) -> LayerKind:
    name = entry.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        near = nearest(str(name), sorted(KINDS))
        hint = f"did you mean {near!r}? " if near else ""
        raise ConfigError(f"{where}: kind is {printable(repr(name), 80)}; {hint}choose one of {', '.join(KINDS)}")
    return KINDS[name]


def _spread(given: Mapping[str, Any], dimensions: int) -> dict[str, Any]:
    """A single number where the graph has one a dimension stands for all of them."""
    tuples = {field.name for field in fields(Node) if str(_HINTS[field.name]).startswith("tuple")}
    return {
        key: [value] * dimensions if key in tuples and isinstance(value, int) else value
        for key, value in given.items()
    }


def _remedy(kind: LayerKind, sources: Sequence[Shape]) -> str:
    if any(len(shape) not in kind.ranks for shape in sources) and len(sources[0]) > 1:
        return "; put a global_avg_pool or a flatten before it"
    return ""
