"""Foreign text where people read it, and what the database holds of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fuzz.mutation import vary_json
from tests.fuzz.target import Prepared, Target
from tinyfleet.coordinator.store.database.database import from_json
from tinyfleet.fedcore.errors import CodecError, ConfigError
from tinyfleet.fedcore.foreign.board import board_facts
from tinyfleet.fedcore.foreign.shown import printable, printable_json
from tinyfleet.fedcore.protocol.reach.client import broker_address


def _printable(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        text = data.decode("utf-8", "surrogatepass" if data[:1] > b"m" else "surrogateescape")
        shown = printable(text, 200)
        assert shown.isprintable()
        assert len(shown) <= 200 * 10 + 30
        shown.encode("utf-8")
        again = json.loads(printable_json(json.dumps({"text": text}, ensure_ascii=False)))
        assert again == {"text": text}
        return shown

    seeds = [b"\x1b[2Jm\xc3\xa9\n\xe2\x80\xae[bold]", "x\u2028\u200fn\U000e0041".encode(), b"plain" * 60]
    return Prepared(parse, seeds)


def _rows(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        found = from_json(data.decode("utf-8", "replace"), dict[str, Any], "column")
        return board_facts(found)

    seeds = [
        b'{"cores":4,"title":"a board","measured":{"cores":4,"rates":[{"kernel":"dense","gflops":2.5}]}}',
        b'{"rss_bytes":1.0,"temperature_c":41.5}',
        b'{"engines":["native","torch"]}',
    ]
    return Prepared(parse, seeds, vary_json)


def _urls(directory: Path) -> Prepared:
    def parse(data: bytes) -> object:
        host, port, _ = broker_address(data.decode("utf-8", "surrogateescape"))
        assert host
        assert 0 < port < 65536
        return host

    return Prepared(parse, [b"mqtt://127.0.0.1:1883", b"mqtts://gateway.local", b"mqtts://[::1]:8883"])


TEXT = (
    Target("shown-text", (UnicodeDecodeError,), _printable),
    Target("store-columns", (CodecError,), _rows),
    Target("broker-urls", (ConfigError,), _urls),
)
