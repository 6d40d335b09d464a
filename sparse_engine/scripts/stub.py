"""Write the types of the compiled module as it is built now to sparse_engine/_core.pyi (--check: only compare).

The stub is kept in the repository, so that types are checked where there is no compiler. Needs nanobind.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STUB = ROOT / "sparse_engine" / "_core.pyi"
HEAD = "# Written by scripts/stub.py; do not edit.\n"


def generate() -> str:
    """The stub's text."""
    from nanobind.stubgen import StubGen

    found = StubGen(importlib.import_module("sparse_engine._core"), max_expr_length=0, quiet=True)
    found.put(found.module)
    text = re.sub(r"Annotated\[(NDArray\[[\w.]+\]), dict\((?:[^()]|\([^()]*\))*\)\]", r"\1", str(found.get()))
    text = text.replace("from typing import Annotated\n", "")
    return HEAD + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main() -> int:
    """Write or compare; 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        STUB.write_text(generate(), encoding="utf-8")
    elif STUB.read_text(encoding="utf-8") != generate():
        print(f"{STUB} is not what the module has: run {__file__}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
