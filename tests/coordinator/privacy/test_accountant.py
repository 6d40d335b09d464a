"""What is spent, against closed forms: the theorem's own optimum, and the Gaussian mechanism's exact epsilon."""

from __future__ import annotations

import math
import sys

import msgspec
import numpy as np
import pytest

from tinyfleet.coordinator.privacy import accountant
from tinyfleet.coordinator.privacy.accountant import affordable, calibrated, epsilon, outlook
from tinyfleet.fedcore.errors import ConfigError, Unavailable
from tinyfleet.fedcore.run_spec import PrivacySettings, RunSpec, TrainingSettings


def terms(mode="central", noise=1.0, budget=0.0, delta=1e-5):
    return PrivacySettings(mode, 1.0, noise, budget, delta)


def spec(rounds=20, **given):
    return RunSpec(training=TrainingSettings(rounds=rounds), privacy=terms(**given))


@pytest.fixture
def library():
    return pytest.importorskip("dp_accounting", reason="the extra `privacy` is not installed")


def concentrated(rho, delta):
    """Least epsilon of rho-zCDP (Canonne, Kamath and Steinke 2020, proposition 12), over a fine grid of orders."""
    orders = np.exp(np.linspace(math.log(1.001), math.log(1e4), 200_000))
    found = orders * rho + np.log(1 / (orders * delta)) / (orders - 1) + np.log1p(-1 / orders)
    return float(found.min())


def exact_delta(mu, at):
    """Delta of a Gaussian mechanism of sensitivity over deviation ``mu`` (Balle and Wang 2018, theorem 8)."""

    def below(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return below(mu / 2 - at / mu) - math.exp(at) * below(-mu / 2 - at / mu)


@pytest.mark.parametrize("noise", [0.7, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("releases", [1, 10, 100])
@pytest.mark.usefixtures("library")
def test_epsilon_is_the_theorems_and_never_below_it(noise, releases):
    found = epsilon(terms(noise=noise), releases)
    optimum = concentrated(releases / (2 * noise**2), 1e-5)
    assert optimum * (1 - 1e-6) <= found <= 1.02 * optimum


@pytest.mark.parametrize("noise", [1.0, 4.0])
@pytest.mark.parametrize("releases", [1, 20])
@pytest.mark.usefixtures("library")
def test_epsilon_is_an_upper_bound_of_the_mechanisms_own(noise, releases):
    found = epsilon(terms(noise=noise), releases)
    mu = math.sqrt(releases) / noise
    assert exact_delta(mu, found) <= 1e-5
    assert exact_delta(mu, 0.85 * found) > 1e-5, "and no loose one"


@pytest.mark.usefixtures("library")
def test_local_noise_hides_any_two_data_sets_of_a_device():
    """Two clips apart: the same noise counts for half."""
    assert epsilon(terms("local", noise=2.0), 5) == epsilon(terms("central", noise=1.0), 5)
    assert epsilon(terms(), 0) == 0.0


@pytest.mark.usefixtures("library")
def test_a_budget_is_turned_into_the_least_noise_that_keeps_it():
    found = calibrated(spec(noise=0.0, budget=3.0)).privacy
    assert 2.99 < epsilon(found, 20) <= 3.0
    assert epsilon(msgspec.structs.replace(found, noise=0.999 * found.noise), 20) > 3.0
    kept = spec(noise=1.5, budget=3.0)
    assert calibrated(kept) is kept
    with pytest.raises(ConfigError, match="raise it"):
        calibrated(spec(noise=0.0, budget=1e-9))


@pytest.mark.usefixtures("library")
def test_a_budget_allows_so_many_rounds_and_no_more():
    privacy = terms(noise=4.0, budget=3.0)
    most = affordable(privacy, 1000)
    assert epsilon(privacy, most) <= 3.0 < epsilon(privacy, most + 1)
    assert affordable(privacy, most - 1) == most - 1
    assert affordable(terms(), 1000) == 1000


@pytest.mark.usefixtures("library")
def test_the_outlook_says_where_a_run_would_stop():
    found = outlook(spec(noise=4.0, budget=3.0))
    assert found.affordable < found.rounds == 20
    assert "there it stops, before round 20" in str(found)
    assert "stops" not in str(outlook(spec(noise=8.0)))
    assert outlook(RunSpec()) is None


def test_without_the_library_a_private_run_says_what_to_install(monkeypatch):
    accountant._epsilon.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(Unavailable, match=r"pip install 'tinyfleet\[privacy\]'"):
        calibrated(spec())
    with pytest.raises(Unavailable, match="dp-accounting"):
        epsilon(terms(noise=1.2345), 1)
    plain = RunSpec()
    assert calibrated(plain) is plain
