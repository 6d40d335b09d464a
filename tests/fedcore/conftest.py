"""``engine_name``: each engine in turn."""

from __future__ import annotations

import pytest

from tests.fedcore.training.engines import NAMES


@pytest.fixture(params=NAMES, scope="module")
def engine_name(request):
    return request.param
