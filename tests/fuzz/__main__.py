"""``python -m tests.fuzz run|slice|corpus``: millions of inputs, some of each parser, or the corpus anew.

``run`` writes its report after every round of blocks and goes on from it; each parser runs in a process of its own
with little memory to take, so that one that crashes or takes all of it is a finding as well.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.harness import (
    BLOCK,
    Tally,
    as_document,
    inputs_of,
    outcome,
    quiet,
    run_block,
    tally_of,
)
from tests.fuzz.target import CORPUS, corpus
from tests.fuzz.targets import TARGETS
from tinyfleet.fedcore.files import write_atomic

MEMORY_MB = 600  # of address space beyond what the libraries take
TIMEOUT_S = 120.0  # a block, on a machine however busy
KEPT, KEPT_BYTES = 40, 1500  # inputs of a parser in the corpus, and the length of one
# Blocks of a parser in each round: as many of the quick ones, which are those of the network, as take seconds.
QUICK = (
    *(
        "messages-up",
        "messages-down",
        "envelopes",
        "topics",
        "blobs",
        "positions",
        "values",
        "shown-text",
        "store-columns",
    ),
    *("broker-urls", "certificates", "certificate-dates", "certificate-requests", "certificate-names"),
)
SLOW = ("idx", "certificate-grants", "images", "kept-images")
QUICK_BLOCKS, USUAL_BLOCKS, SLOW_BLOCKS = 200, 5, 1


def blocks(name: str, start: int, count: int) -> Tally:
    """In this process: so many blocks, from number ``start``."""
    quiet()
    total = Tally()
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as directory:
        prepared = target.prepare(Path(directory))
        for data in prepared.seeds:
            outcome(target, prepared, data)  # imports and first uses, before memory is counted
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = taken + (MEMORY_MB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for block in range(start, start + count):
            total.add(run_block(target, prepared, block))
    return total


def in_child(name: str, start: int, count: int) -> Tally:
    """The same in a child; its death is a finding."""
    command = [sys.executable, "-m", "tests.fuzz", "blocks", name, str(start), str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S * count, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        tally = Tally()
        tally.found(f"did not end in {TIMEOUT_S * count:g} s", start, b"")
        return tally
    if ran.returncode:
        tally = Tally()
        tally.found(f"the process ended with {ran.returncode}: {ran.stderr.strip()[-300:]}", start, b"")
        return tally
    return tally_of(json.loads(ran.stdout.splitlines()[-1]))


def run(names: list[str], inputs: int, out: Path) -> int:
    """Rounds of blocks over all parsers until there were so many inputs; 1 where anything was found."""
    document = json.loads(out.read_text()) if out.exists() else {}
    tallies = {name: tally_of(entry) for name, entry in document.get("parsers", {}).items()}
    done: dict[str, int] = document.get("blocks", {})
    while sum(tally.inputs for tally in tallies.values()) < inputs:
        for name in names:
            count = QUICK_BLOCKS if name in QUICK else SLOW_BLOCKS if name in SLOW else USUAL_BLOCKS
            tallies.setdefault(name, Tally()).add(in_child(name, done.get(name, 0), count))
            done[name] = done.get(name, 0) + count
            total = sum(tally.inputs for tally in tallies.values())
            report = {"inputs": total, "blocks": done, "parsers": as_document(tallies)}
            write_atomic(out, json.dumps(report, indent=1).encode())
        found = sum(len(tally.findings) for tally in tallies.values())
        sys.stderr.write(f"{total} inputs, {found} kinds of findings\n")
    for name, tally in sorted(tallies.items()):
        for kind, finding in tally.findings.items():
            sys.stderr.write(f"{name}: {finding.count} x {kind}\n")
    return int(any(tally.findings for tally in tallies.values()))


def distil(names: list[str], count: int) -> None:
    """Keep inputs that come to different ends: those that are kept already, then new ones."""
    quiet()
    for name in names:
        target = TARGETS[name]
        with tempfile.TemporaryDirectory(prefix=f"fuzz-{name}-") as directory:
            prepared = target.prepare(Path(directory))
            ends: dict[str, bytes] = {}
            for data in (*corpus(name), *prepared.seeds, *inputs_of(target, prepared, 1, count)):
                if len(data) <= KEPT_BYTES and len(ends) < KEPT:
                    ends.setdefault(outcome(target, prepared, data), data)
        text = json.dumps([base64.b64encode(data).decode() for data in ends.values()], indent=0)
        write_atomic(CORPUS / f"{name}.json", f"{text}\n".encode())
        sys.stderr.write(f"{name}: {len(ends)} kept\n")


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    actions = parser.add_subparsers(dest="action", required=True)
    for action in ("run", "corpus"):
        one = actions.add_parser(action)
        one.add_argument(
            "--parser", action="append", choices=sorted(TARGETS), help="only this one; may be repeated"
        )
        one.add_argument("--inputs", type=int, default=5_000_000 if action == "run" else 3 * BLOCK)
        if action == "run":
            one.add_argument("--out", type=Path, required=True, help="the report, as JSON; goes on where it ends")
    one = actions.add_parser("blocks")
    one.add_argument("name", choices=sorted(TARGETS))
    one.add_argument("start", type=int)
    one.add_argument("count", type=int)
    options = parser.parse_args()
    if options.action == "blocks":
        tally = blocks(options.name, options.start, options.count)
        sys.stdout.write(json.dumps(as_document({"": tally})[""]) + "\n")
        return 0
    names = options.parser or list(TARGETS)
    if options.action == "corpus":
        distil(names, options.inputs)
        return 0
    return run(names, options.inputs, options.out)


if __name__ == "__main__":
    sys.exit(main())
