"""What is measured: one cell a model, density, batch, number of threads and set of memory levers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinyfleet.fedcore.training.levers import NO_LEVERS, Levers

DENSITIES = (0.01, 0.05, 0.1)
LEARNING_RATE, MOMENTUM = 0.01, 0.9  # of both engines' steps
LEAN = 2  # ``recompute`` where memory matters more than time

# ResNet18 at 32x32, batch 64: times as fast as dense torch, by density.
SPEEDUPS = {0.01: 8.0, 0.05: 5.0, 0.1: 3.5}
EXACT_MB = 200.0  # a process's peak, at density 0.01
PRUNED_MB = 60.0  # with micro-batches and 30 % of the activations


@dataclass(frozen=True, slots=True)
class EngineCell:
    """One configuration of a training step on 32x32 images."""

    model: str
    density: float
    batch: int = 64
    levers: Levers = NO_LEVERS
    threads: int = 1
    pruned_norm: bool = False

    @property
    def exact(self) -> bool:
        return not self.levers.lossy

    @property
    def speedup_target(self) -> float | None:
        """What the step as fast as it can be is to reach; None where there is no target."""
        if self.model != "resnet18" or self.batch != 64 or self.levers != NO_LEVERS:
            return None
        return SPEEDUPS.get(self.density)

    @property
    def peak_target_mb(self) -> float | None:
        """What the process is to stay under when it saves memory; None where there is no target."""
        if self.model != "resnet18" or self.batch != 64 or self.density != 0.01:
            return None
        if not self.exact:
            return PRUNED_MB if self.levers.micro_batch else None
        return EXACT_MB if self.levers.recompute else None


def cells() -> Iterator[EngineCell]:
    """All of them."""
    for threads in (1, 2):
        for density in DENSITIES:
            yield EngineCell("resnet18", density, threads=threads)
            yield EngineCell("resnet18", density, levers=Levers(recompute=LEAN), threads=threads)
        few = 8 // threads  # each thread has scratch memory of its own
        yield EngineCell("resnet18", 0.01, levers=Levers(few, recompute=LEAN), threads=threads)
        pruned = Levers(few, activation_keep=0.3, cache="fp16", recompute=1)
        yield EngineCell("resnet18", 0.01, levers=pruned, threads=threads, pruned_norm=True)
    for model in ("mobilenet_v2", "resnet20"):
        for density in DENSITIES:
            yield EngineCell(model, density)
    for model in ("resnet18", "resnet20"):
        for batch in (1, 16):
            yield EngineCell(model, 0.05, batch)


def chosen(
    models: Sequence[str] = (), densities: Sequence[float] = (), threads: Sequence[int] = ()
) -> list[EngineCell]:
    """The cells of these models, densities and numbers of threads; an empty choice is all of them."""
    return [
        cell
        for cell in cells()
        if (not models or cell.model in models)
        and (not densities or cell.density in densities)
        and (not threads or cell.threads in threads)
    ]
