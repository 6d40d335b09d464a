"""Which runs can be summed securely: all else is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.fedcore.methods.secure_step import secure, spec_of
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.methods import registry
from tinyfleet.fedcore.methods.fedavg import FedAvg, Static
from tinyfleet.fedcore.methods.summing.combinations import check_secure_aggregation
from tinyfleet.fedcore.payload import Payload
from tinyfleet.fedcore.run_spec import PrivacySettings, SecureAggregationSettings

SUMMED = ("fedavg", "static", "snip", "synflow", "fl_pqsu", "fedtiny", "fedmef", "tinyfleet")
OTHERS = ("prunefl", "feddst", "lotteryfl", "fedrts")


@pytest.mark.parametrize("method", OTHERS)
def test_methods_that_need_more_than_sums_are_refused_by_name(method):
    spec = secure(spec_of(method))
    made = registry.create(spec.method, registry.problem_of(spec))
    with pytest.raises(ConfigError, match=f"method {method} needs more"):
        check_secure_aggregation(spec, made)


@pytest.mark.parametrize("method", SUMMED)
def test_the_others_are_taken(method):
    spec = secure(spec_of(method))
    check_secure_aggregation(spec, registry.create(spec.method, registry.problem_of(spec)))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("aggregate", "median"),
        ("norm_limit", 10.0),
        ("influence_limit", 1.5),
        ("staleness", 1),
        ("selection", "capability"),
        ("min_results", 2),
    ],
)
def test_settings_that_need_single_results_are_refused_by_name(setting, value):
    spec = secure(spec_of())
    method = registry.create(spec.method, registry.problem_of(spec))
    odd = msgspec.structs.replace(spec, fleet=msgspec.structs.replace(spec.fleet, **{setting: value}))
    with pytest.raises(ConfigError, match=f"fleet.{setting}"):
        check_secure_aggregation(odd, method)
    check_secure_aggregation(msgspec.structs.replace(odd, secure_aggregation=SecureAggregationSettings()), method)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_noise_is_not_added_to_what_is_masked(mode):
    spec = msgspec.structs.replace(secure(spec_of()), privacy=PrivacySettings(mode, noise=1.0))
    with pytest.raises(ConfigError, match=r"privacy\.mode"):
        check_secure_aggregation(spec, registry.create(spec.method, registry.problem_of(spec)))


def test_an_odd_number_of_neighbours_is_refused():
    spec = secure(spec_of(), neighbours=5)
    with pytest.raises(ConfigError, match="neighbours = 5 is odd"):
        check_secure_aggregation(spec, registry.create(spec.method, registry.problem_of(spec)))


def test_a_method_that_folds_otherwise_has_to_say_what_it_sums():
    class Otherwise(Static):
        def fold(self, fold: Any, result: Payload) -> None:
            super().fold(fold, result)

    class Both(Otherwise):
        def sum_stage(self, task: Payload) -> Any:
            return super().sum_stage(task)

    spec = secure(spec_of())
    problem = registry.problem_of(spec)
    with pytest.raises(ConfigError, match="needs more"):
        check_secure_aggregation(spec, Otherwise(Static.settings_type(), problem))
    check_secure_aggregation(spec, Both(Static.settings_type(), problem))
    check_secure_aggregation(spec, FedAvg(FedAvg.settings_type(), problem))
