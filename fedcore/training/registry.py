"""Engines by name. Looking is cheap: nothing heavy is imported until ``create``."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.training.engine import NO_CROSSOVERS, Engine

KNOWN = ("auto", "native", "torch", "torch-cuda")
INSTALL_NATIVE = "pip install ./sparse_engine, or a wheel that `make wheels` built"
INSTALL_TORCH = "pip install 'tinyfleet[torch]'"

# The dynamic loader's words where a library does not fit into the memory that is left.
NO_ROOM = ("failed to map segment", "cannot map zero-fill pages", "annot allocate memory")

_log = logging.getLogger(__name__)


def available() -> tuple[str, ...]:
    """Names of the engines that can be created here, the preferred first."""
    native = () if native_fault() else ("native",)
    return (*native, "torch") if importlib.util.find_spec("torch") else native


@functools.cache
def native_fault() -> str:
    """Why the native engine cannot be used here; empty where it can. Small enough to be tried at once.

    Raises ``MemoryError`` where there is no room for it.
    """
    try:
        import sparse_engine
    except ImportError as error:
        if any(phrase in str(error) for phrase in NO_ROOM):
            raise MemoryError(f"the native engine cannot be loaded: {error}") from None
        missing = isinstance(error, ModuleNotFoundError) and error.name == "sparse_engine"
        return "is not installed" if missing else f"cannot be loaded ({error})"
    # A folder of this name without the package in it is a package, too, to Python.
    return "" if hasattr(sparse_engine, "Network") else "is not installed"


def preferred(name: str = "auto") -> str:
    """The engine that ``name`` stands for. Raises ``ConfigError`` where none is installed."""
    if name != "auto":
        return name
    found = available()
    if not found:
        raise ConfigError(
            f"no training engine can be used: the native one {native_fault()} ({INSTALL_NATIVE}), and there is "
            f"no torch ({INSTALL_TORCH}); install one of them"
        )
    return found[0]


def require(name: str) -> None:
    """Raise ``ConfigError``, with the remedy, where the engine is unknown or not installed; loads no torch."""
    if name not in KNOWN:
        raise ConfigError(f"engine {name!r} is unknown; choose one of {', '.join(KNOWN)}")
    chosen = preferred(name)
    if chosen == "native" and native_fault():
        raise ConfigError(f"engine 'native' {native_fault()}; {INSTALL_NATIVE}, or use engine 'torch'")
    if chosen != "native" and importlib.util.find_spec("torch") is None:
        raise ConfigError(f"engine {chosen!r}: torch is not installed; {INSTALL_TORCH}, or use engine 'native'")


def create(name: str = "auto", threads: int = 1, crossovers: Mapping[str, float] = NO_CROSSOVERS) -> Engine:
    """Create an engine: ``native``, ``torch`` (CPU), ``torch-cuda``, or ``auto`` (the first that is available).

    ``crossovers`` are the native engine's (see there); others have no choice of kernels. Raises ``ConfigError``
    where the engine is unknown or cannot run here.
    """
    require(name)
    chosen = preferred(name)
    if chosen == "native":
        return _native(threads, crossovers)
    if name == "auto":
        _log.warning(
            "the native engine %s: torch trains, whose sparsity saves neither time nor memory; remedy: %s",
            native_fault(),
            INSTALL_NATIVE,
        )
    return _torch(chosen, threads)


def _native(threads: int, crossovers: Mapping[str, float]) -> Engine:
    from tinyfleet.fedcore.training.native.engine import NativeEngine

    return NativeEngine(threads, crossovers)


def _torch(name: str, threads: int) -> Engine:
    import torch

    from tinyfleet.fedcore.training.torch.engine import TorchEngine

    if name == "torch-cuda" and not torch.cuda.is_available():
        raise ConfigError("engine 'torch-cuda': torch sees no CUDA device here; use engine 'torch'")
    return TorchEngine(threads, "cuda" if name == "torch-cuda" else "cpu")
