"""Rates by density and dtype: real kernels, what they compute and what is counted."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tinyfleet.device_profiles.measuring import rates
from tinyfleet.device_profiles.profile import Rate

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


@pytest.fixture
def counted(monkeypatch):
    """The work that each rate counted, and its kernel's result; nothing is timed."""
    seen = []

    def steady_rate(work, run, **given):
        seen.append((work, run()))
        return 2.5e9

    monkeypatch.setattr(rates, "steady_rate", steady_rate)
    return seen


def test_every_kernel_at_every_density_and_dtype():
    assert len(rates.cases()) == len(set(rates.cases())) == 12
    assert ("sparse", "fp16", 0.01) in rates.cases()


@pytest.mark.parametrize("density", rates.DENSITIES)
@pytest.mark.parametrize("dtype", rates.DTYPES)
def test_numpy_s_kernels_compute_the_same(density, dtype):
    weights = rates._weights(density)
    assert {int((row != 0).sum()) for row in weights} == {round(density * 576)}
    dense = rates._numpy_kernel("dense", dtype, weights)()
    sparse = rates._numpy_kernel("sparse", dtype, weights)()
    np.testing.assert_allclose(sparse.astype(float), dense.astype(float), atol=1e-3 if dtype == "fp32" else 0.5)


def test_active_arithmetic_is_counted(counted):
    dense = rates.active_rate("numpy", "dense", "fp32", 0.1)
    assert dense == Rate("dense", 0.1, "fp32", 2.5)
    rates.active_rate("numpy", "sparse", "fp32", 0.1)
    assert [work for work, _ in counted] == [2 * 58 * 64 * 256] * 2, "58 of 576 weights a row, in both kernels"


@needs_torch
def test_torch_s_kernels_have_the_same_shapes_and_one_thread(counted):
    import torch

    before = torch.get_num_threads()
    found = [rates.active_rate("torch", kernel, "fp32", 0.01) for kernel in rates.KERNELS]
    assert [rate.kernel for rate in found] == ["dense", "sparse"]
    assert [tuple(result.shape) for _, result in counted] == [(1, 64, 16, 16), (64, 256)]
    assert torch.get_num_threads() == before


@needs_torch
def test_a_kernel_that_an_engine_lacks_has_no_rate(monkeypatch):
    def refuse(work, run, **given):
        raise RuntimeError(message)

    monkeypatch.setattr(rates, "steady_rate", refuse)
    message = "\"addmm_sparse_csr\" not implemented for 'Half'"
    assert rates.active_rate("torch", "sparse", "fp16", 0.1) is None
    message = "something else"
    with pytest.raises(RuntimeError, match="something else"):
        rates.active_rate("torch", "sparse", "fp16", 0.1)


def test_a_real_rate():
    found = rates.active_rate("numpy", "dense", "fp32", 1.0)
    assert 0.01 < found.gflops < 10_000
