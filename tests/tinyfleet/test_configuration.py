"""docs/configuration.md is what the definitions say."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tinyfleet.cli.configuration import _notes, main, reference
from tinyfleet.coordinator.config import CoordinatorConfig
from tinyfleet.edge_agent.config import AgentConfig
from tinyfleet.fedcore.methods.registry import METHODS
from tinyfleet.fedcore.run_spec import RunSpec

ROOT = Path(__file__).parent.parent.parent


def structs(kind):
    yield kind
    for item in msgspec.structs.fields(kind):
        inner = item.type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from structs(inner)


def test_the_document_is_current(tmp_path):
    main([str(tmp_path / "configuration.md")])
    assert (tmp_path / "configuration.md").read_text(encoding="utf-8") == (
        ROOT / "docs/configuration.md"
    ).read_text(encoding="utf-8"), "run `make docs`"


def test_every_key_stands_there():
    text = reference()
    for top in (RunSpec, AgentConfig, CoordinatorConfig, *(method.settings_type for method in METHODS)):
        for kind in structs(top):
            for item in msgspec.structs.fields(kind):
                assert f"| `{item.name}` |" in text or f"{item.name}]" in text, item.name


def test_meanings_come_from_comments_and_descriptions():
    from tinyfleet.fedcore.run_spec import DataSettings, TrainingSettings

    assert _notes(TrainingSettings)["final_learning_rate"] == (
        "Geometric or cosine decay to this; None: constant, and to zero with the cosine."
    )
    assert _notes(DataSettings)["limit"].startswith("use at most so many")
    assert _notes(AgentConfig)["name"].startswith("device name")
