"""Every figure by the name that documents call it by."""

from __future__ import annotations

from pathlib import Path

from tinyfleet.figures import (
    ablation,
    arms,
    costs,
    deployed,
    engine,
    export,
    fleet,
    floors,
    kills,
    load,
    methods,
    models,
    parts,
    poisoning,
    privacy,
    secure_aggregation,
    selection,
)
from tinyfleet.figures.page import Figure
from tinyfleet.figures.results import CommittedResults

MODULES = (
    ablation,
    arms,
    costs,
    deployed,
    engine,
    export,
    fleet,
    floors,
    kills,
    load,
    methods,
    models,
    parts,
    poisoning,
    privacy,
    secure_aggregation,
    selection,
)


def figures(directory: Path) -> dict[str, Figure]:
    """All of them, of the results in ``directory``."""
    found: dict[str, Figure] = {}
    for module in MODULES:
        for name, figure in module.figures(CommittedResults(directory)).items():
            if name in found:
                raise ValueError(f"two figures are called {name!r}")
            found[name] = figure
    return found
