"""What an exported file says of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tinyfleet.fedcore.models.graph import Graph


def metadata_of(graph: Graph, density: float, normalization: Mapping[str, object] | None) -> dict[str, str]:
    """What a file says of itself."""
    facts: dict[str, object] = {"model": graph.name, "density": density, "classes": graph.classes}
    if normalization is not None:
        facts["normalization"] = dict(normalization)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
