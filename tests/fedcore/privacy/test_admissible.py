"""What differential privacy cannot be combined with is refused by name, with the remedy."""

from __future__ import annotations

import pytest

from tests.fedcore.methods.problems import problem
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.methods.method import Method
from tinyfleet.fedcore.privacy.admissible import admission_of, check_privacy
from tinyfleet.fedcore.run_spec import FleetSettings, PrivacySettings, RunSpec


def check(method=None, mode="central", noise=1.0, epsilon=0.0, **fleet):
    spec = RunSpec(
        method=method or {"name": "static"},
        fleet=FleetSettings(**fleet),
        privacy=PrivacySettings(mode, 1.0, noise, epsilon),
    )
    check_privacy(spec, registry.create(spec.method, problem(rounds=20)))


@pytest.mark.parametrize("mode", ["central", "local"])
@pytest.mark.parametrize(
    "method",
    [
        {"name": "fedavg"},
        {"name": "static"},
        {"name": "snip"},
        {"name": "synflow"},
        {"name": "fl_pqsu"},
        {"name": "tinyfleet", "progressive": False},
        {"name": "tinyfleet", "interval": 20},  # none of its 20 rounds adjusts
        {"name": "fedmef", "progressive": False},
        {"name": "fedtiny", "progressive": False, "selection": False},
        {"name": "prunefl", "interval": 20},
    ],
)
def test_methods_whose_results_are_updates_alone_are_taken(method, mode):
    check(method, mode)


@pytest.mark.parametrize("mode", ["central", "local"])
@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ({"name": "tinyfleet"}, r"tinyfleet.*method\.progressive = false"),
        ({"name": "fedmef"}, r"fedmef.*method\.progressive = false"),
        ({"name": "fedtiny"}, r"fedtiny.*method\.selection = false"),
        ({"name": "fedtiny", "selection": False}, r"method\.progressive = false"),
        ({"name": "prunefl", "interval": 19}, r"squared gradients.*method\.interval"),
        ({"name": "feddst"}, r"mask is its own.*static"),
        ({"name": "lotteryfl"}, r"mask is its own.*static"),
        ({"name": "fedrts"}, r"vote.*static"),
    ],
)
def test_methods_that_tell_more_are_refused_with_the_remedy(method, remedy, mode):
    with pytest.raises(ConfigError, match=remedy):
        check(method, mode)


def test_a_method_that_does_not_say_what_it_tells_is_refused():
    assert "override more_than_updates" in Method.more_than_updates(object.__new__(registry.kind("fedavg")))


def test_every_method_of_ours_says_what_it_tells():
    for kind in registry.METHODS:
        assert kind.more_than_updates is not Method.more_than_updates


@pytest.mark.parametrize("aggregate", ["clipped", "median", "trimmed", "krum", "multi-krum", "geometric-median"])
def test_central_noise_is_for_the_mean_alone(aggregate):
    with pytest.raises(ConfigError, match=rf"{aggregate}.*use \"mean\""):
        check(aggregate=aggregate)
    check(mode="local", aggregate=aggregate)  # what left the devices is private already


def test_central_noise_counts_no_late_result():
    with pytest.raises(ConfigError, match=r"fleet\.staleness = 0"):
        check(staleness=1)
    check(mode="local", staleness=1)


def test_noise_and_mode_belong_together():
    with pytest.raises(ConfigError, match=r"needs privacy\.noise"):
        check(noise=0.0)
    with pytest.raises(ConfigError, match=r"need privacy\.mode"):
        check(mode="none", noise=1.0)
    with pytest.raises(ConfigError, match=r"need privacy\.mode"):
        check(mode="none", noise=0.0, epsilon=1.0)
    check(noise=0.0, epsilon=3.0)
    check(mode="none", noise=0.0)


def test_with_central_noise_no_result_is_judged_by_the_others():
    fleet = FleetSettings(norm_limit=10.0, influence_limit=2.0)
    central, local, plain = (
        admission_of(RunSpec(fleet=fleet, privacy=PrivacySettings(mode))) for mode in ("central", "local", "none")
    )
    assert (central.norm_limit, central.influence_limit) == (0.0, 0.0)
    assert local == plain == fleet
