"""Engines by name. Looking is cheap: nothing heavy is imported until ``create``."""

from __future__ import annotations

import importlib.util

from fedcore.errors import ConfigError
from fedcore.training.engine import Engine


def available() -> tuple[str, ...]:
    """Names of the engines that can be created here, the preferred first."""
    return ("torch",) if importlib.util.find_spec("torch") else ()


def preferred(name: str = "auto") -> str:
    """The engine that ``name`` stands for. Raises ``ConfigError`` where none is installed."""
    if name != "auto":
        return name
    if not available():
        raise ConfigError("no training engine is installed; install torch: pip install 'tinyfleet[torch]'")
    return available()[0]


def create(name: str = "auto", threads: int = 1) -> Engine:
    """Create an engine: ``torch`` (CPU), ``torch-cuda``, or ``auto`` (the first that is available).

    Raises ``ConfigError`` where it is unknown or cannot run here.
    """
    known = ("auto", "torch", "torch-cuda")
    if name not in known:
        raise ConfigError(f"engine {name!r} is unknown; choose one of {', '.join(known)}")
    if not available():
        raise ConfigError("no training engine is installed; install torch: pip install 'tinyfleet[torch]'")
    import torch

    from fedcore.training.torch_engine import TorchEngine

    if name == "torch-cuda" and not torch.cuda.is_available():
        raise ConfigError("engine 'torch-cuda': torch sees no CUDA device here; use engine 'torch'")
    return TorchEngine(threads, "cuda" if name == "torch-cuda" else "cpu")
