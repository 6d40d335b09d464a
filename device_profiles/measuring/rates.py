"""GFLOP/s of one thread, dense and sparse, by density and dtype.

The work is a 3x3 convolution of 64 channels on a 16x16 map: 64 x 576 weights on 256 columns. ACTIVE arithmetic is
counted, 2 x weights that are not zero x columns, so that at one density the rates of both kernels compare as their
speeds do: where the dense one's is higher, sparse storage saves memory and no time.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tinyfleet.device_profiles.measuring.timing import LEAST_S, steady_rate
from tinyfleet.device_profiles.profile import Rate

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

DENSITIES = (1.0, 0.1, 0.01)
DTYPES = {"fp32": "float32", "fp16": "float16"}
KERNELS = ("dense", "sparse")
CHANNELS, SIZE = 64, 16
INPUTS, COLUMNS = CHANNELS * 9, SIZE * SIZE
BUDGET_S = 1.5  # all rates together: some 10 s

Run = Callable[[], object]


def cases() -> tuple[tuple[str, str, float], ...]:
    """(kernel, dtype, density) of each rate."""
    return tuple((kernel, dtype, density) for dtype in DTYPES for kernel in KERNELS for density in DENSITIES)


def active_rate(engine: str, kernel: str, dtype: str, density: float) -> Rate | None:
    """One rate, in active GFLOP/s; None where the engine has no such kernel here.

    The numpy engine multiplies matrices: dense with the zeros in place, sparse row by row, on the inputs that the
    row's weights want, the fastest that numpy alone has. The torch engine convolves for dense and multiplies by a
    CSR matrix for sparse, inputs unfolded beforehand; on most processors it has no such product in fp16.
    """
    weights = _weights(density)
    active = 2.0 * int((weights != 0).sum()) * COLUMNS
    with contextlib.ExitStack() as stack:
        if engine == "torch":
            stack.enter_context(one_torch_thread())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # CSR matrices are a beta
        try:
            kernels = _torch_kernel if engine == "torch" else _numpy_kernel
            run = kernels(kernel, dtype, weights)
            gflops = steady_rate(active, run, budget_s=BUDGET_S, least_s=LEAST_S) / 1e9
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            return None
    return Rate(kernel, density, dtype, float(f"{gflops:.4g}"))


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Hold torch to one thread of the processor, then give back what it had."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _weights(density: float) -> Array:
    """CHANNELS x INPUTS, the same each time, with the same share of zeros in every row (at least one weight)."""
    import numpy as np

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((CHANNELS, INPUTS), np.float32)
    for row in weights:
        row[rng.permutation(INPUTS)[max(1, round(density * INPUTS)) :]] = 0.0
    return weights


def _numpy_kernel(kernel: str, dtype: str, weights: Array) -> Run:
    import numpy as np

    kind = np.dtype(DTYPES[dtype])
    rng = np.random.default_rng(1)
    columns = rng.standard_normal((INPUTS, COLUMNS), np.float32).astype(kind)
    matrix = weights.astype(kind)
    if kernel == "dense":
        return lambda: matrix @ columns
    rows = [(row[np.flatnonzero(row)], np.flatnonzero(row)) for row in matrix]
    product = np.empty((CHANNELS, COLUMNS), kind)

    def run() -> object:
        for index, (values, wanted) in enumerate(rows):
            np.matmul(values, columns[wanted], out=product[index])
        return product

    return run


def _torch_kernel(kernel: str, dtype: str, weights: Array) -> Run:
    import torch

    kind = getattr(torch, DTYPES[dtype])
    matrix = torch.from_numpy(weights).to(kind)
    if kernel == "dense":
        filters = matrix.reshape(CHANNELS, CHANNELS, 3, 3)
        images = torch.randn(1, CHANNELS, SIZE, SIZE).to(kind)

        def convolve() -> object:
            with torch.no_grad():
                return torch.nn.functional.conv2d(images, filters, padding=1)

        return convolve
    compressed = matrix.to_sparse_csr()
    columns = torch.randn(INPUTS, COLUMNS).to(kind)
    return lambda: compressed @ columns
