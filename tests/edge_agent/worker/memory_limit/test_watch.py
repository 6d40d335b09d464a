from __future__ import annotations

from tinyfleet.edge_agent.worker.memory_limit.watch import CALM_INTERVAL_S, CLOSE_INTERVAL_S, Watch

LIMIT = 1_000_000_000  # the soft limit: 920 MB


def intervals(watch, *looks):
    return [watch.interval_s(now, int(rss)) for now, rss in looks]


def test_it_looks_closely_at_first_and_above_half_of_the_soft_limit():
    found = intervals(Watch(LIMIT), (0.0, 1e8), (0.2, 1e8), (10.0, 4.59e8), (20.0, 4.61e8), (30.0, 4e8))
    close, calm = CLOSE_INTERVAL_S, CALM_INTERVAL_S
    assert found == [close, calm, calm, close, calm]


def test_it_looks_closely_while_a_second_of_such_growth_would_meet_the_soft_limit():
    # 100 MB in 0.1 s, in 0.2 s, none, less than before.
    found = intervals(Watch(LIMIT), (0.0, 1e8), (0.1, 2e8), (0.3, 3e8), (0.5, 3e8), (0.7, 1e8))
    assert found[1:] == [CLOSE_INTERVAL_S, CALM_INTERVAL_S, CALM_INTERVAL_S, CALM_INTERVAL_S]


def test_two_looks_at_once_and_no_limit_are_no_trouble():
    assert intervals(Watch(LIMIT), (1.0, 1e6), (1.0, 3e6))[1] == CLOSE_INTERVAL_S
    assert intervals(Watch(0), (0.0, 1e12), (0.1, 9e12)) == [CALM_INTERVAL_S, CALM_INTERVAL_S]
