"""Runs inputs in blocks: a block is made by its number alone, so that a run can go on, and a finding come again."""

from __future__ import annotations

import logging
import random
import re
import resource
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.target import Prepared, Target, corpus

BLOCK = 1000  # inputs
SLOW_S = 1.0  # processor seconds that no input may take
KEPT_SHARE = 0.2  # of inputs that begin with one of the corpus
ROOT = Path(__file__).parents[2]
_DIGITS = re.compile(r"\d+|0x[0-9a-f]+|'[^']*'|\"[^\"]*\"|`[^`]*`")


@dataclass
class Finding:
    """An input that came to an end which is none. ``example`` is the first such input, in hex digits."""

    count: int = 0
    block: int = 0
    example: str = ""
    said: str = ""


@dataclass
class Tally:
    """What became of the inputs of a target."""

    inputs: int = 0
    values: int = 0  # read as something
    typed: int = 0  # refused as documented
    cpu_s: float = 0.0
    slowest_s: float = 0.0
    memory_growth_mb: float = 0.0  # of the peak resident, over what the seeds take
    findings: dict[str, Finding] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.inputs += other.inputs
        self.values += other.values
        self.typed += other.typed
        self.cpu_s = round(self.cpu_s + other.cpu_s, 3)
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.memory_growth_mb = max(self.memory_growth_mb, other.memory_growth_mb)
        for key, finding in other.findings.items():
            known = self.findings.setdefault(key, Finding(0, finding.block, finding.example, finding.said))
            known.count += finding.count

    def found(self, key: str, block: int, data: bytes, said: str = "") -> None:
        finding = self.findings.setdefault(key, Finding(0, block, data[:20_000].hex(), said[:200]))
        finding.count += 1


def tally_of(document: dict[str, Any]) -> Tally:
    """Back from JSON."""
    findings = {key: Finding(**value) for key, value in document.get("findings", {}).items()}
    return Tally(**{**document, "findings": findings})


def inputs_of(target: Target, prepared: Prepared, block: int, count: int = BLOCK) -> Iterator[bytes]:
    """The inputs of one block: seeds and kept inputs as they are at first, then damaged ones."""
    rng = random.Random(f"{target.name}/{block}")
    seeds, kept = list(prepared.seeds), corpus(target.name)
    first = [*seeds, *kept][:count] if block == 0 else []
    yield from first
    for _ in range(count - len(first)):
        if kept and rng.random() < KEPT_SHARE:
            yield _vary(rng, prepared, rng.choice(kept))
        else:
            yield _vary(rng, prepared, rng.choice(seeds))


def _vary(rng: random.Random, prepared: Prepared, seed: bytes) -> bytes:
    try:
        return prepared.vary(rng, seed)
    except Exception:  # noqa: BLE001 - a kept input may be too damaged to be varied by its form
        return bytes(rng.randbytes(rng.randrange(64)))


def run_block(target: Target, prepared: Prepared, block: int, count: int = BLOCK) -> Tally:
    """One block's inputs in this process."""
    tally = Tally()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    for data in inputs_of(target, prepared, block, count):
        _one(target, prepared, block, data, tally)
    tally.cpu_s = round(time.process_time() - start, 3)
    tally.memory_growth_mb = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1e3, 1)
    return tally


def _one(target: Target, prepared: Prepared, block: int, data: bytes, tally: Tally) -> None:
    tally.inputs += 1
    start = time.thread_time()
    try:
        prepared.parse(data)
        tally.values += 1
    except target.typed:
        tally.typed += 1
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        tally.found(_kind(error), block, data, str(error))
    took = time.thread_time() - start
    tally.slowest_s = max(tally.slowest_s, round(took, 4))
    if took > SLOW_S:
        tally.found(f"took more than {SLOW_S:g} s", block, data)


def outcome(target: Target, prepared: Prepared, data: bytes) -> str:
    """What an input comes to, without its numbers and names: inputs of the same outcome are alike."""
    try:
        found = prepared.parse(data)
    except target.typed as error:
        return f"{type(error).__name__}: {_DIGITS.sub('#', str(error))[:80]}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"! {_kind(error)}"
    return f"a {type(found).__name__}"


def _kind(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(str(ROOT)) and "/tests/fuzz/" not in f.filename]
    at = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.name}"


def quiet() -> None:
    """Neither logs nor warnings of millions of inputs."""
    import warnings

    import numpy as np

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")


def as_document(tallies: dict[str, Tally]) -> dict[str, Any]:
    """For JSON."""
    return {name: asdict(tally) for name, tally in sorted(tallies.items())}


def kinds(tally: Tally) -> Counter[str]:
    """Findings by their kind."""
    return Counter({key: finding.count for key, finding in tally.findings.items()})
