from __future__ import annotations

import pytest

from tests.edge_agent.rig import Rig


@pytest.fixture
def rig(tmp_path):
    """An agent that its coordinator has accepted."""
    made = Rig(tmp_path)
    made.accepted()
    return made


@pytest.fixture
def warm_rig(tmp_path):
    """The same, whose worker stays between tasks."""
    made = Rig(tmp_path, policy="warm")
    made.accepted()
    return made
