"""Facts of the torch engine, on the processor and on CUDA."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.training.engine_facts import EngineFacts, MemoryModel

if TYPE_CHECKING:
    from tinyfleet.fedcore.training.engine import Engine

CUDA = "cuda"


def _installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def _fault() -> str:
    return "" if _installed() else "is not installed"


def _create(threads: int, kernel_choice: Mapping[str, float]) -> Engine:
    from tinyfleet.fedcore.training.torch.engine import TorchEngine

    return TorchEngine(threads)


def _create_cuda(threads: int, kernel_choice: Mapping[str, float]) -> Engine:
    import torch

    from tinyfleet.fedcore.training.torch.engine import TorchEngine

    if not torch.cuda.is_available():
        raise ConfigError(f"engine {TORCH_CUDA.name!r}: torch sees no CUDA device here; use engine {TORCH.name!r}")
    return TorchEngine(threads, CUDA)


TORCH = EngineFacts(
    name="torch",
    install="pip install 'tinyfleet[torch]'",
    looks_installed=_installed,
    fault=_fault,
    create=_create,
    memory_model=MemoryModel.REPLAYED,
    cost_model="torch",
    warm_bytes=250_000_000,  # the CPU build: 190 to 250 MB
    loading_bytes=None,
    # 21 to 28 MB in 150 jobs of seven models on x86-64. Every task that is known to fit was at least 26 MB away
    # from this bound.
    first_step_bytes=22_000_000,
    rated_by="torch",
)

TORCH_CUDA = replace(
    TORCH,
    name="torch-cuda",
    create=_create_cuda,
    first_step_bytes=None,  # its memory is not only here
    device=CUDA,
    automatic=False,
)
