"""What compaction removes, against the committed rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("onnx")

from tinyfleet.bench.compaction import CELLS, CompactionRow, measure

COMMITTED = Path(__file__).parents[3] / "docs/benchmarks/compaction.json"


def test_every_cell_is_committed():
    rows = msgspec.json.decode(COMMITTED.read_bytes(), type=list[CompactionRow])
    assert [(row.model, row.density, row.mask) for row in rows] == list(CELLS)
    for row in rows:
        assert row.multiply_adds_compact <= row.multiply_adds
        assert row.onnx_bytes_compact <= row.onnx_bytes


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[0] == "mobilenet_v2"], ids=str)
def test_every_machine_gets_the_same(cell):
    rows = msgspec.json.decode(COMMITTED.read_bytes(), type=list[CompactionRow])
    committed = next(row for row in rows if (row.model, row.density, row.mask) == cell)
    measured = measure(*cell)
    assert measured.multiply_adds == committed.multiply_adds
    # Sizes may differ by a version string, channels by a weight that ties with another.
    assert measured.multiply_adds_compact == pytest.approx(committed.multiply_adds_compact, rel=1e-3)
    assert measured.onnx_bytes_compact == pytest.approx(committed.onnx_bytes_compact, rel=1e-3)
