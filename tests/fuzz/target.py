"""What is fuzzed: a parser, what it may raise, and whole inputs to begin with."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutation import damaged

CORPUS = Path(__file__).parent / "corpus"

Parse = Callable[[bytes], object]
Vary = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True)
class Prepared:
    """``parse`` gets one input; ``seeds`` are inputs that it takes; ``vary`` damages one."""

    parse: Parse
    seeds: Sequence[bytes]
    vary: Vary = damaged


@dataclass(frozen=True)
class Target:
    """``prepare`` gets a directory of its own. ``typed``: what the parser's docstring lets it raise."""

    name: str
    typed: tuple[type[Exception], ...]
    prepare: Callable[[Path], Prepared]


def corpus(name: str) -> list[bytes]:
    """The inputs that are kept of a target: each once came to another end than all before it."""
    path = CORPUS / f"{name}.json"
    return [base64.b64decode(one) for one in json.loads(path.read_text())] if path.exists() else []


def file_parse(path: Path, read: Callable[[Path], object]) -> Parse:
    """A parser of files: each input is written to ``path`` first."""

    def parse(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return parse
