"""What happens often is said once in a while, with how often it happened."""

from __future__ import annotations

from tinyfleet.fedcore.foreign import seldom
from tinyfleet.fedcore.foreign.seldom import HOUR_S, Seldom


def test_a_thing_is_said_at_once_and_then_after_its_time_with_what_came_between():
    said = Seldom(10.0)
    assert [said.times("flood", now) for now in (0.0, 1.0, 9.9)] == [1, 0, 0]
    assert said.times("flood", 10.0) == 3
    assert said.times("flood", 20.0) == 1


def test_things_do_not_hide_each_other():
    said = Seldom()
    assert [said.times(what, 0.0) for what in ("a", ("a", "b"), "a")] == [1, 1, 0]
    assert said.times("a", HOUR_S) == 2


def test_what_a_stranger_can_name_without_end_is_not_kept_without_end(monkeypatch):
    monkeypatch.setattr(seldom, "_MOST", 3)
    said = Seldom(10.0)
    assert [said.times(what, 0.0) for what in range(4)] == [1] * 4
    assert [said.times(what, 1.0) for what in (1, 2, 3)] == [0] * 3
    assert said.times(0, 1.0) == 1, "of the one said longest ago nothing is known"
