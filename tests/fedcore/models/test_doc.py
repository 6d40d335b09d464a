from __future__ import annotations

from pathlib import Path

import pytest

from tinyfleet.fedcore.models.registry import build, names
from tinyfleet.fedcore.run_spec import ModelSettings

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"


@pytest.mark.parametrize("name", names())
def test_the_document_has_the_model_s_figures(name):
    (line,) = [line for line in DOCUMENT.read_text().splitlines() if line.startswith(f"| {name} |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shape = tuple(int(size) for size in cells[1].split("x"))
    graph = build(ModelSettings(name=name, input_shape=shape, classes=10))
    prunable = sum(graph.params[weight].size for weight in graph.maskable)
    expected = [
        f"{graph.parameter_count():,}",
        f"{prunable:,}",
        f"{graph.flops() / 1e6:.1f}",
        str(len(graph.blocks)),
    ]
    assert cells[2:] == expected
