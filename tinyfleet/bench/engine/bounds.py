"""What one thread of this processor reaches at most: multiply-adds by where their operands come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparse_engine import _core

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL = {1: 32 << 10, 2: 512 << 10, 3: 0}  # bytes, where the kernel does not tell
FAR = 4  # times the largest cache: a buffer that is in no cache
LEAST_FAR = 64 << 20


@dataclass(frozen=True, slots=True)
class Bounds:
    """GFLOP/s in registers and with one operand of each multiply-add from a cache; GB/s from memory.

    Measured with the instruction set that the kernels use, from half of each cache.
    """

    isa: str
    width: int
    l1_bytes: int
    l2_bytes: int
    registers_gflops: float
    l1_gflops: float
    l2_gflops: float
    memory_gbs: float

    def roof(self, intensity: float) -> float:
        """GFLOP/s that ``intensity`` flops a byte of memory allow."""
        return min(self.registers_gflops, intensity * self.memory_gbs)

    def limit(self, gflops: float, intensity: float) -> str:
        """The nearest bound above what was reached; the least of all where none is above it."""
        found = {
            "memory": intensity * self.memory_gbs,
            "L2 operands": self.l2_gflops,
            "L1 operands": self.l1_gflops,
            "registers": self.registers_gflops,
        }
        above = {name: bound for name, bound in found.items() if bound >= gflops}
        return min(above, key=above.__getitem__) if above else max(found, key=found.__getitem__)


def measure_bounds() -> Bounds:
    """Takes a second."""
    sizes = cache_bytes()
    far = max(LEAST_FAR, FAR * max(sizes.values()))
    return Bounds(
        _core.isa,
        _core.width,
        sizes[1],
        sizes[2],
        _core.peak_gflops(0),
        _core.peak_gflops(sizes[1] // 2),
        _core.peak_gflops(sizes[2] // 2),
        2.0 * _core.peak_gflops(min(far, 1 << 29)),  # a multiply-add is two operations on four bytes
    )


def cache_bytes(caches: Path = CACHES) -> dict[int, int]:
    """Bytes of the first core's data caches by level."""
    found = dict(USUAL)
    for cache in sorted(caches.glob("index*")):
        try:
            kind = (cache / "type").read_text(encoding="ascii").strip()
            level = int((cache / "level").read_text(encoding="ascii"))
            size = (cache / "size").read_text(encoding="ascii").strip()
            if kind != "Instruction":
                found[level] = int(size.removesuffix("K")) << 10
        except (OSError, ValueError):
            continue
    return found
