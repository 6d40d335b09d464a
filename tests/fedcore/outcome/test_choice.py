from __future__ import annotations

import pytest

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.outcome.choice import VALIDATION_FRACTION, Validated, best, shortfall, with_validation
from tinyfleet.fedcore.run_spec import DataSettings, RunSpec


def test_the_best_is_the_most_accurate_then_the_surest_then_the_latest():
    assert best([]) is None
    low, high = Validated(1, 0.8, 0.1), Validated(2, 0.9, 0.5)
    surer, later = Validated(3, 0.9, 0.4), Validated(4, 0.9, 0.4)
    assert best([low, high]) is high
    assert best([surer, high, low]) is surer
    assert best([later, surer]) is later


def test_best_gets_validation_data_of_its_public_data():
    assert with_validation(RunSpec()) == RunSpec()
    assert with_validation(RunSpec(result="averaged")) == RunSpec(result="averaged")
    assert with_validation(RunSpec(result="best")).data.validation_fraction == VALIDATION_FRACTION
    own = RunSpec(result="best", data=DataSettings(validation_fraction=0.5))
    assert with_validation(own) == own


def test_best_without_public_data_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"public_fraction is 0.*averaged"):
        with_validation(RunSpec(result="best", data=DataSettings(public_fraction=0.0)))


@pytest.mark.parametrize(
    ("ending", "accuracies", "said"),
    [
        (0.82, {3: 0.93, 4: 0.82}, "export --step 3"),
        (0.82, {3: 0.93, 4: 0.93, 5: 0.82}, "export --step 4"),
        (0.915, {3: 0.93, 4: 0.915}, ""),
        (None, {3: 0.93}, ""),
        (0.5, {}, ""),
    ],
)
def test_a_shortfall_names_the_step_that_was_better(ending, accuracies, said):
    text = shortfall(ending, accuracies)
    assert (said in text) if said else not text
