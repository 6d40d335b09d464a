from __future__ import annotations

from pathlib import Path

import pytest

from tinyfleet.cli.runs import read_spec
from tinyfleet.demo.spec import LIMIT, demo_spec

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples").glob("*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_run(path):
    assert read_spec(path).name == path.stem


def test_the_demos_example_is_the_demo():
    example = read_spec(next(path for path in EXAMPLES if path.stem == "tinyfleet-mnist"))
    demo = demo_spec(limit=LIMIT)
    for part in ("method", "model", "training", "data", "seed", "wire"):
        assert getattr(example, part) == getattr(demo, part), part
