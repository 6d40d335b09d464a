"""Who decides how glibc treats large tensors."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

# Prints whether a block of 8 MB came from the heap ("kept") or from a mapping of its own.
SCRIPT = """
import ctypes
from tinyfleet.fedcore.training.allocator import keep_freed_memory
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "usmblks fsmblks uordblks fordblks keepcost".split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
keep_freed_memory()
before = libc.mallinfo2().hblkhd
assert libc.malloc(ctypes.c_size_t(8 << 20))
print("mapped" if libc.mallinfo2().hblkhd - before >= 8 << 20 else "kept")
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later")


@pytest.mark.parametrize(
    ("chosen", "outcome"), [({}, "kept"), ({"MALLOC_MMAP_THRESHOLD_": str(4 << 20)}, "mapped")]
)
def test_large_blocks_stay_in_the_heap_unless_the_environment_chose(chosen: dict[str, str], outcome: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=own | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == outcome


SMALL = """
import ctypes, threading
from tinyfleet.fedcore.rss import resident_bytes
from tinyfleet.fedcore.training.allocator import be_small
be_small()
before = resident_bytes()
def work():
    blocks = [bytearray(96 << 10) for _ in range(100)]
    kept = bytearray(1 << 10)
    del blocks
    return kept
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident_bytes() - before)
"""


def test_a_small_process_gives_back_what_passed_through_its_threads() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", SMALL], env=own, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000_000, "of 40 MB"


CHOICE = (
    SCRIPT.replace("import keep_freed_memory", "import choose")
    .replace("keep_freed_memory()", "choose(roomy=False); choose(roomy=ROOMY)")
    .replace("8 << 20", "2 << 20")
)


@pytest.mark.parametrize(("roomy", "outcome"), [(True, "kept"), (False, "mapped")])
def test_a_task_chooses_between_the_processes_own_heap_and_a_lean_one(roomy: bool, outcome: str) -> None:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}
    script = CHOICE.replace("ROOMY", str(roomy))
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == outcome
