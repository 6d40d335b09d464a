"""The agent's own files, which a card that is worn out, or a hand, may change."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np

from tests.fuzz.mutation import damaged, vary_json
from tests.fuzz.target import Prepared, Target, file_parse
from tinyfleet.edge_agent import identity
from tinyfleet.edge_agent.status import AgentStatus
from tinyfleet.edge_agent.status import read as read_status
from tinyfleet.edge_agent.task.outbox import Outbox, OutboxEntry
from tinyfleet.edge_agent.worker.budget import Experience, Governor
from tinyfleet.edge_agent.worker.masks import MaskStore
from tinyfleet.fedcore.errors import ConfigError
from tinyfleet.fedcore.protocol.chunks import manifest_of
from tinyfleet.fedcore.protocol.messages import ResultOffer
from tinyfleet.fedcore.run_spec import RunSpec


def _identity(directory: Path) -> Prepared:
    """Files that others may read are refused before they are looked at."""
    path = directory / "identity.json"
    path.touch(mode=0o600)
    files = (identity.file_of(bytes(range(32))), identity.IdentityFile("", identity.PEM_BEGIN))
    return Prepared(file_parse(path, identity.read), [msgspec.json.encode(file) for file in files], vary_json)


def _status(directory: Path) -> Prepared:
    seeds = [msgspec.json.encode(AgentStatus("b", "s", 5, "online", "idle", task)) for task in (None, ("r", 1))]
    return Prepared(file_parse(directory / "status.json", read_status), seeds, vary_json)


BLOB = f"{'0' * 16}-1-{'0' * 16}.blob"


def _outbox(directory: Path) -> Prepared:
    """One description; its blob is there as it should be."""
    content = b"a result"
    blob = directory / "blob"
    blob.write_bytes(content)
    offer = ResultOffer("r", 1, manifest_of(blob, 4), 1.0, 2.0, 3, "native", "0" * 64)
    place = directory / "outbox"
    place.mkdir()

    def parse(data: bytes) -> object:
        (place / "a.json").write_bytes(data)
        (place / BLOB).write_bytes(content)
        outbox = Outbox(place, max_bytes=1000, max_age_s=1e6, wall_clock=lambda: 1.8e9)
        for found in outbox.offers():
            held = outbox.find(found.manifest.sha256)
            assert held is not None
            assert held[1].parent == place
            outbox.prune()
            outbox.drop(found.run, found.step)
        for left in place.iterdir():
            left.unlink()
        assert blob.read_bytes() == content
        return outbox

    seeds = [msgspec.json.encode(OutboxEntry(offer, name, 1.75e9, 1)) for name in (BLOB, "../blob")]
    return Prepared(parse, seeds, vary_json)


def _governor(directory: Path) -> Prepared:
    path = directory / "governor.json"
    spec = RunSpec()

    def read(_: Path) -> object:
        governor = Governor(
            path, memory_limit_bytes=10**8, usable=lambda: 10**9, threads=1, policy="fresh", engine="native"
        )
        limits = governor.limits(spec)
        assert limits.factor > 0
        return limits

    kind = Governor(
        path, memory_limit_bytes=10**8, usable=lambda: 10**9, threads=1, policy="fresh", engine="native"
    )._kind(spec)
    seeds = [msgspec.json.encode({kind: Experience(2, False, 1, 1.25), "other": Experience()})]
    return Prepared(file_parse(path, read), seeds, vary_json)


def _masks(directory: Path) -> Prepared:
    rng = np.random.default_rng(5)
    store = MaskStore(directory / "masks")
    mask = {"w": rng.random((4, 3, 3)) < 0.3, "v": rng.random(17) < 0.5}
    digest = store.put(mask)
    path = directory / "masks" / f"{digest}.mask"
    whole = path.read_bytes()

    def vary(source: random.Random, seed: bytes) -> bytes:
        head, _, bits = seed.partition(b"\n")
        if source.random() < 0.3:
            return damaged(source, seed)
        return vary_json(source, head) + b"\n" + bits

    return Prepared(file_parse(path, lambda _: store.get(digest)), [whole], vary)


AGENT = (
    Target("identity-file", (ConfigError,), _identity),
    Target("status-file", (), _status),
    Target("outbox-file", (), _outbox),
    Target("governor-file", (), _governor),
    Target("mask-file", (), _masks),
)
