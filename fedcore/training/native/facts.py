"""Facts of the native engine."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tinyfleet.fedcore.training.engine_facts import NO_ROOM, EngineFacts, MemoryModel

if TYPE_CHECKING:
    from tinyfleet.fedcore.training.engine import Engine

INSTALL = "pip install ./sparse_engine, or a wheel that `make wheels` built"


@functools.cache
def fault() -> str:
    """Why it cannot be used here; empty where it can. Small enough to be tried at once.

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


def _fault() -> str:
    return fault()  # looked up then: a test may put another in its place


def _looks_installed() -> bool:
    found = importlib.util.find_spec("sparse_engine")
    return found is not None and found.origin is not None  # a mere folder of that name has no origin


def _create(threads: int, kernel_choice: Mapping[str, float]) -> Engine:
    from tinyfleet.fedcore.training.native.engine import NativeEngine

    return NativeEngine(threads, kernel_choice)


NATIVE = EngineFacts(
    name="native",
    install=INSTALL,
    looks_installed=_looks_installed,
    fault=_fault,
    create=_create,
    memory_model=MemoryModel.ARENA,
    cost_model="native",
    warm_bytes=60_000_000,  # 57 to 59 MB
    loading_bytes=3_000_000,
    first_step_bytes=1_000_000,  # its library is half a megabyte as a whole
    rated_by="numpy",
    saves_by_sparsity=True,
    recomputes=True,
    chooses_kernels=True,
)
