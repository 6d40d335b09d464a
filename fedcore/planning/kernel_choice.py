"""Which kernels a board's layers run with: by their density, where that was measured on the board."""

from __future__ import annotations

from collections.abc import Callable

from tinyfleet.fedcore.models.model import SERIES
from tinyfleet.fedcore.models.registry import MODELS, build
from tinyfleet.fedcore.run_spec import ModelSettings

KERNEL_SECONDS = 30.0
IMAGES, SEQUENCES = (3, 32, 32), (9, 128)  # what models are measured with

Progress = Callable[[str, int, int], None]


def measure_kernel_choice(progress: Progress) -> dict[str, float]:
    """By shape, for those of all our models, the density from which on dense kernels are faster on this board."""
    from sparse_engine.kernels.kernel_choice import measure_kernel_choice as time_kernels
    from tinyfleet.fedcore.training.native.model import model_of

    shapes = {name: SEQUENCES if model.axes == SERIES else IMAGES for name, model in MODELS.items()}
    models = [model_of(build(ModelSettings(name, shape))) for name, shape in shapes.items()]
    found = time_kernels(models, seconds=KERNEL_SECONDS, told=lambda shape, *at: progress(f"kernels, {shape}", *at))
    progress("", 1, 1)
    return {shape: round(density, 3) for shape, density in found.items()}
