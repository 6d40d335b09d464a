"""Which kernel a layer is to use on this machine: from which density on the dense one takes less time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from sparse_engine import _core
from sparse_engine.kernels.timing import NEVER, TimedConvolution
from sparse_engine.layers import Layer, Model, Op

Told = Callable[[str, int, int], None]

DENSITIES = (0.1, 0.3, 0.6, 1.0)  # at which the sparse kernels are timed; the dense ones take the same at any
SAMPLES = _core.LANES
BUDGET_S = 8.0
LEAST_ROWS, PRODUCTS = 4, 1 << 26  # rows of a tile; multiply-adds of a pass with all weights that are enough
REPEATING = 0.6  # share of that for repetitions: the rest is for preparation and for what takes longer even once


def measure_kernel_choice(
    models: Iterable[Model],
    threads: int = 1,
    seconds: float = BUDGET_S,
    told: Told | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Densities from which the dense kernels win, by shape (``shape_of``); above 1: at none.

    Both kernels of each distinct shape are timed, those with the least work first, for about so many ``seconds``;
    ``told`` hears of each, with how many are done and how many there are. What there is no time for, on a slow
    processor, is left out, as are grouped convolutions: they have no dense kernel. ``clock`` tells what is left.
    """
    end = clock() + seconds
    every = {shape: _cropped(*ends) for model in models for shape, ends in distinct_convolutions(model).items()}
    convolutions = sorted(every.items(), key=lambda entry: _products(*entry[1]))
    found: dict[str, float] = {}
    pace = 0.0  # seconds of all kernels and densities, for each multiply-add of the dense one
    for done, (shape, cropped) in enumerate(convolutions):
        left = end - clock()
        # Its first trials, and those before them that are not timed, would take about so long.
        if left <= 2.0 * pace * _products(*cropped):
            break
        if told is not None:
            told(shape, done, len(convolutions))
        share = REPEATING * left / ((len(convolutions) - done) * (len(DENSITIES) + 1))
        timed = TimedConvolution(*cropped, SAMPLES, threads)
        dense = timed.time(1.0, dense=True, seconds=share).total
        points = [(d, timed.time(d, dense=False, seconds=share).total) for d in DENSITIES]
        found[shape] = dense_wins_from(points, dense)
        pace = (dense + sum(taken for _, taken in points)) / _products(*cropped)
    return found


def dense_from(model: Model, kernel_choice: Mapping[str, float]) -> dict[str, float]:
    """What ``Network`` takes: a density a layer, as it was measured; those of unknown shape are left out."""
    shapes = model.shapes()
    found = {}
    for layer in model.layers:
        if layer.op in (Op.CONV, Op.LINEAR):
            density = kernel_choice.get(shape_of(layer, shapes[layer.inputs[0]]))
            if density is not None:
                found[layer.name] = density
    return found


def _cropped(
    layer: Layer, source: tuple[int, ...], out: tuple[int, ...]
) -> tuple[Layer, tuple[int, ...], tuple[int, ...]]:
    """The same layer with fewer rows of output where these are much work: both kernels go over it row by row."""
    if len(source) != 3:
        return layer, source, out
    rows = min(out[1], max(LEAST_ROWS, PRODUCTS * out[1] // (SAMPLES * _products(layer, source, out))))
    needed = (rows - 1) * layer.stride[0] + layer.spans[0] - layer.pads[0][0] - layer.pads[1][0]
    if rows == out[1] or needed < 1:
        return layer, source, out
    return layer, (source[0], needed, source[2]), (out[0], rows, out[2])


def dense_wins_from(points: Sequence[tuple[float, float]], dense: float) -> float:
    """The density from which ``dense`` seconds are less than the sparse kernel's, straight lines between points.

    Points are (density, seconds). The least density where they all take longer; ``NEVER`` where none does.
    """
    before: tuple[float, float] | None = None
    for density, seconds in sorted(points):
        if seconds >= dense:
            if before is None:
                return density
            return before[0] + (density - before[0]) * (dense - before[1]) / (seconds - before[1])
        before = density, seconds
    return NEVER


def distinct_convolutions(
    model: Model, *, grouped: bool = False
) -> dict[str, tuple[Layer, tuple[int, ...], tuple[int, ...]]]:
    """(a layer, its input's shape, its output's) for each shape, those with the most multiply-adds first.

    ``grouped``: grouped convolutions, too.
    """
    shapes = model.shapes()
    found: dict[str, tuple[Layer, tuple[int, ...], tuple[int, ...]]] = {}
    for layer in model.layers:
        if layer.op in (Op.CONV, Op.LINEAR) and (layer.groups == 1 or grouped):
            source = shapes[layer.inputs[0]]
            seen = (layer.in_channels,) if layer.op is Op.LINEAR else source
            found.setdefault(shape_of(layer, source), (layer, seen, shapes[layer.name]))
    return dict(sorted(found.items(), key=lambda entry: -_products(*entry[1])))


def shape_of(layer: Layer, source: Sequence[int]) -> str:
    """The layer's shape in words: all that its time depends on, beside its weights."""
    if layer.op is Op.LINEAR:
        return f"{layer.in_channels} to {layer.out_channels}"
    size, kernel, stride, padding = (_times(v) for v in (source[1:], layer.kernel, layer.stride, layer.padding))
    dilation = f", dilation {_times(layer.dilation)}" if layer.dilation else ""
    groups = f" in {layer.groups} groups" if layer.groups > 1 else ""
    return (
        f"{kernel} of {layer.in_channels} to {layer.out_channels}{groups} at {size}, stride {stride}, "
        f"padding {padding}{dilation}"
    )


def _times(values: Sequence[int]) -> str:
    return "x".join(str(value) for value in values)


def _products(layer: Layer, source: Sequence[int], out: Sequence[int]) -> int:
    count = 1
    for length in (*layer.weight_shape, *out[1:]):
        count *= length
    return count
