"""Damage to bytes, JSON and TOML, drawn from a generator that is given: the same seed makes the same input."""

from __future__ import annotations

import json
import random
import re
import struct
from typing import Any

INTERESTING = [0, 1, 127, 128, 255, 256, 32767, 65535, 65536, *(2**n for n in (31, 32, 34, 40, 63)), 2**31 - 1, -1]
WORDS = [1e308, 1e-320, 10**30, -0.0, "true", "null", '"x"', "[]", "{}", "NaN", "Infinity", "1" + "0" * 400]
ATOMS: list[Any] = [
    *(0, 1, -1, 2, 3, 8, 255, 2**31, 2**34, 2**40, 2**53, 2**63, 10**30, 10**400, 1.5, 1e308, -1e308, 5e-324),
    *(None, True, False, "", "x", "../../x", "..", "\0", "a" * 300, "\u2028", "\x1b[2J", "\ud800"),
    *([], {}, [[]], [1] * 50, {"a": 1}, [0, 2**34], [2**31, 2**31, 2**31], [0, 2**34, 2**34, 2**34]),
]
TOML_WORDS = [
    *(b"true", b"[]", b"[[1]]", b'"x"', b"-1", b"1e400", b"nan", b"inf", b"9" * 30, b"9" * 5000, b"1979-05-27"),
    *(b"{a=1}", b"'''", b"0x10", b'"../../x"', b'"\\u0000"', b'"\\ud800"', b"1979-05-27T25:00:00Z", b"07:32:00"),
    *(b"[" * 600 + b"]" * 600, b"{a=" * 400 + b"1" + b"}" * 400, b"0b1" + b"0" * 9000, b"1_0", b'"""'),
]
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


def damaged(rng: random.Random, data: bytes) -> bytes:
    """One to eight small changes: bits, bytes, lengths, numbers, pieces twice or missing."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        changed = _change(rng, changed)
    return bytes(changed)


def _change(rng: random.Random, data: bytearray) -> bytearray:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(8):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.randrange(256)
        case 2:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        case 3:
            del data[at : at + rng.randrange(1, 20)]
        case 4 if len(data) > 4:
            at = rng.randrange(len(data) - 4)
            form = rng.choice(("<I", ">I"))
            data[at : at + 4] = struct.pack(form, rng.choice(INTERESTING) & 0xFFFFFFFF)
        case 5 if data:
            start = rng.randrange(len(data))
            data[at:at] = data[start : start + rng.randrange(1, 40)]
        case 6:
            del data[at:]
        case _:
            numbers = list(_NUMBER.finditer(bytes(data)))
            if numbers:
                number = rng.choice(numbers)
                data[number.start() : number.end()] = str(rng.choice(INTERESTING + WORDS)).encode()
    return data


def damaged_json(rng: random.Random, document: Any) -> Any:
    """The document with one to three of its values replaced, dropped, doubled or moved to another key."""
    document = _copy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        node = document
        for _depth in range(8):
            if not isinstance(node, dict | list) or not node:
                break
            key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
            child = node[key]
            if not isinstance(child, dict | list) or not child or rng.random() < 0.25:
                _replace(rng, node, key)
                break
            node = child
    return document


def _replace(rng: random.Random, node: Any, key: Any) -> None:
    match rng.randrange(6):
        case 0 | 1 | 2:
            node[key] = _copy(rng.choice(ATOMS))
        case 3:
            del node[key]
        case 4 if isinstance(node, list):
            node.insert(rng.randrange(len(node) + 1), _copy(rng.choice(node)))
        case _:
            if isinstance(node, dict):
                node[rng.choice(("x", "", f"{key}_", "\0"))] = node[key]
            else:
                node[key] = rng.choice((node, [node[key]]))[0:1]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def json_bytes(document: Any) -> bytes:
    """JSON as a careless or hostile writer has it: lone surrogates, NaN and endless numbers pass."""
    return json.dumps(document, ensure_ascii=True).encode()


def vary_json(rng: random.Random, seed: bytes) -> bytes:
    """A JSON text damaged in its structure or in its bytes; now and then nested without end."""
    kind = rng.random()
    if kind < 0.01:
        depth = rng.choice((20, 500, 930, 5000))
        return seed[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
    return json_bytes(damaged_json(rng, json.loads(seed))) if kind < 0.6 else damaged(rng, seed)


def vary_toml(rng: random.Random, seed: bytes) -> bytes:
    """A TOML text with lines that say something else, or damaged in its bytes."""
    if rng.random() < 0.4:
        return damaged(rng, seed)
    lines = seed.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition(b"=")
        if equals and rng.random() < 0.8:
            lines[at] = key + b"= " + rng.choice(TOML_WORDS)
        else:
            lines[at] = rng.choice(
                (b"[x]", b"a.b = 1", b"[[limits]]", b"[a.b.c]", lines[rng.randrange(len(lines))])
            )
    return b"\n".join(lines)
