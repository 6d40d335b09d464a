"""The numbers that a run starts from, where none are drawn: kept in the state directory, named by hash."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from tinyfleet.fedcore.arrays import Params
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.files import write_atomic
from tinyfleet.fedcore.models.graph import Graph
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.protocol.codec import decode, encode
from tinyfleet.fedcore.run_spec import RunSpec

FOLDER = "starts"
_KEPT = re.compile(r"sha256:([0-9a-f]{64})\Z")


def keep_start(directory: Path, params: Params) -> str:
    """Write ``params`` below a state directory; returns what ``model.init`` then says of them."""
    blob, name = _blob(params)
    folder = directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    write_atomic(folder / name.removeprefix("sha256:"), blob)
    return name


def name_of_start(params: Params) -> str:
    """What ``model.init`` says of these numbers once they are kept."""
    return _blob(params)[1]


def read_start(directory: Path, spec: RunSpec) -> Params:
    """The numbers that a submitted run starts from; none where they are drawn. Raises ``ConfigError``."""
    if not spec.model.init:
        return {}
    kept = _KEPT.match(spec.model.init)
    if kept is None:
        raise ConfigError(
            f"model.init is {spec.model.init!r}, which is read when a run is submitted: tinyfleet run submit"
        )
    try:
        blob = (directory / FOLDER / kept[1]).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the run's start {kept[1][:12]} cannot be read ({error.strerror}); submit it again"
        ) from None
    if hashlib.sha256(blob).hexdigest() != kept[1]:
        raise ConfigError(f"the run's start {kept[1][:12]} is damaged on disk; submit the run again")
    return decode(blob).params


def matched(graph: Graph, found: Params, seed: int) -> tuple[Params, tuple[str, ...]]:
    """(all numbers of ``graph``, names of those that are drawn anew: the head, where its classes differ).

    Every other array has to be in ``found`` under its name and in its shape. Raises ``ConfigError``.
    """
    head = {name for name in graph.params if name.rpartition(".")[0] == graph.weighted[-1].name}
    other = [name for name, spec in graph.params.items() if name not in found or found[name].shape != spec.shape]
    if odd := [name for name in other if name not in head]:
        raise ConfigError(_mismatch(graph, found, odd))
    fresh = tuple(sorted(head)) if other else ()
    drawn = graph.initial_params(seed) if fresh else {}
    return {name: (drawn if name in fresh else found)[name] for name in graph.params}, fresh


def _mismatch(graph: Graph, found: Params, odd: Collection[str]) -> str:
    name = next(iter(odd))
    held = f"has the shape {found[name].shape} there" if name in found else "is not there"
    return (
        f"model.init: {len(odd)} arrays of {graph.name} do not fit; {name} {graph.params[name].shape} {held}. "
        "Only the last layer may differ: train the same model, or take the file as the model (model.file)"
    )


def _blob(params: Params) -> tuple[bytes, str]:
    blob = encode(Payload({}, params), precision="fp32")
    return blob, f"sha256:{hashlib.sha256(blob).hexdigest()}"
