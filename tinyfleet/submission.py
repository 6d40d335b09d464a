"""A run as its author wrote it becomes the one that is stored and sent: graph, and numbers to start from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.foreign.shown import printable
from tinyfleet.fedcore.methods.start import matched, name_of_start
from tinyfleet.fedcore.models.described.document import MOST_NAME, check_graph, document_of
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.models.registry import build, settled
from tinyfleet.fedcore.protocol.codec import decode
from tinyfleet.fedcore.run_spec import ModelSettings, RunSpec

if TYPE_CHECKING:
    from tinyfleet.fedcore.arrays import Params

MOST_STATE_BYTES = 1 << 30  # of a state that a run starts from

StateOf = Callable[[str], "Params"]
"""The numbers of a run's latest state, by its id or the beginning of it."""


@dataclass(frozen=True, slots=True)
class Submission:
    """``start`` is empty where numbers are drawn; ``fresh`` names those of a new head."""

    spec: RunSpec
    start: Params
    fresh: tuple[str, ...] = ()


def settle(spec: RunSpec, file: Path, state_of: StateOf) -> Submission:
    """Read all that ``model`` of the run in ``file`` refers to. Paths are seen from where the file lies.

    Raises ``ConfigError``.
    """
    said, directory = _said(file), file.parent
    if not spec.model.file:
        model = settled(spec.model)
        spec = structs.replace(spec, model=model)
        return _started(spec, directory, state_of) if model.init else Submission(spec, {})
    if spec.model.layers or spec.model.graph or spec.model.arguments:
        raise ConfigError("model.file is the whole model: leave layers, graph and arguments away beside it")
    if spec.model.init:
        raise ConfigError("model.file brings the numbers that a run starts from: leave model.init away beside it")
    from tinyfleet.importing import import_verified

    path = directory / spec.model.file
    name = label_of(path) if spec.model.name == ModelSettings().name else spec.model.name
    shape = spec.model.input_shape if "input_shape" in said else ()
    imported = import_verified(path, name, shape, spec.model.blocks).imported
    graph = imported.graph
    if "classes" in said:
        graph = with_classes(graph, spec.model.classes)
    return _carried(spec, graph, imported.params)


def with_classes(graph: Graph, classes: int) -> Graph:
    """``graph`` with so many outputs: its last layer with weights gives that many. Raises ``ConfigError``."""
    if classes == graph.classes:
        return graph
    head = graph.weighted[-1]
    nodes = tuple(replace(node, out_channels=classes) if node is head else node for node in graph.nodes)
    try:
        changed = replace(graph, classes=classes, nodes=nodes)
        check_graph(changed)
    except ConfigError as error:
        raise ConfigError(f"model.classes: {graph.name} cannot end in {classes} instead: {error}") from None
    return changed


def _started(spec: RunSpec, directory: Path, state_of: StateOf) -> Submission:
    init = spec.model.init
    if init.startswith("run:"):
        found = state_of(init.removeprefix("run:"))
    elif init.endswith(".onnx"):
        from tinyfleet.importing import import_verified

        found = import_verified(directory / init, "start", spec.model.input_shape).imported.params
    elif init.endswith(".blob"):
        found = _state(directory / init)
    else:
        raise ConfigError(f'model.init is {init!r}; give "run:ID", "FILE.onnx" or "STATE.blob"')
    return _carried(spec, build(spec.model), found)


def _carried(spec: RunSpec, graph: Graph, found: Params) -> Submission:
    start, fresh = matched(graph, found, spec.seed)
    model = structs.replace(
        spec.model, name=graph.name, input_shape=graph.input_shape, classes=graph.classes, init=name_of_start(start)
    )
    if spec.model.file:
        model = structs.replace(model, file="", blocks=(), graph=document_of(graph))
    return Submission(structs.replace(spec, model=model), start, fresh)


def _state(path: Path) -> Params:
    where = printable(str(path), 300)
    try:
        if path.stat().st_size > MOST_STATE_BYTES:
            raise ConfigError(f"{where}: more than {MOST_STATE_BYTES} bytes; give a run's state")
        return decode(path.read_bytes()).params
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot be read ({error.strerror}); give a state that simulate --out wrote"
        ) from None


def _said(file: Path) -> frozenset[str]:
    """Keys of ``[model]`` that the author wrote: a default is no wish."""
    model = tomllib.loads(file.read_text(encoding="utf-8")).get("model", {})
    return frozenset(model)


def label_of(path: Path) -> str:
    """A model's name that a file's name gives."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem).strip(".-_")[:MOST_NAME] or "imported"
