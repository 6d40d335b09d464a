"""A question to a fresh process: the answer, or one error that says what was asked and why it failed."""

from __future__ import annotations

import msgspec
import pytest

from tinyfleet.fedcore.child import ask
from tinyfleet.fedcore.errors import DataError

ECHO = "json.tool"  # the standard library's: writes the JSON that it reads


class Point(msgspec.Struct):
    x: int
    y: int


def test_the_answer_is_of_the_type():
    assert ask(ECHO, {"x": 1, "y": 2}, Point, "echoing", 30.0) == Point(1, 2)


def test_a_late_answer_is_named():
    with pytest.raises(DataError, match=r"^echoing took more than 0\.001 s$"):
        ask(ECHO, {}, Point, "echoing", 0.001)


def test_another_answer_is_named():
    with pytest.raises(DataError, match=r"^echoing failed: .*missing required field `y`"):
        ask(ECHO, {"x": 1}, Point, "echoing", 30.0)


def test_a_failure_ends_with_the_last_line_of_stderr():
    with pytest.raises(DataError, match=r"^asking failed: .*No module named tinyfleet\.fedcore\.nowhere$"):
        ask("tinyfleet.fedcore.nowhere", {}, Point, "asking", 30.0)
