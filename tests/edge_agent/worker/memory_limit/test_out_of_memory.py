from __future__ import annotations

import pytest

from tinyfleet.edge_agent.worker.memory_limit.out_of_memory import is_printed, is_raised


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("std::bad_alloc"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment: Cannot allocate memory"), True),
        (RuntimeError("can't start new thread"), True),
        (BlockingIOError(11, "Resource temporarily unavailable"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_which_errors_mean_memory(error, expected):
    assert is_raised(error) is expected


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("terminate called after throwing an instance of 'std::bad_alloc'", True),
        ("OpenBLAS: Cannot allocate memory", True),
        ("MemoryError", True),
        ("Segmentation fault", False),
        ("", False),
    ],
)
def test_which_last_words_mean_memory(log, expected):
    assert is_printed(log) is expected
