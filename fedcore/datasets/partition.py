"""How one pool of data becomes test, public, validation and the devices' own data. The parts never overlap.

The split into test, public, validation data and the device pool has a fixed seed, so every run is measured on
the same test data; ``partition.seed`` decides only which device gets which sample of the pool.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinyfleet.fedcore.arrays import IntArray
from tinyfleet.fedcore.datasets.adapted import adapted, named
from tinyfleet.fedcore.datasets.dataset import Dataset, DeviceData
from tinyfleet.fedcore.datasets.registry import Source, load, state_of
from tinyfleet.fedcore.errors import ConfigError, DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription
from tinyfleet.fedcore.run_spec import DataSettings, PartitionSettings

SPLIT_SEED = 20_221_130
DEVELOPMENT_FRACTION = 0.1
LEAST_SAMPLES = 20  # of a device: with fewer, a development set and two batches make no sense
MOST_DRAWS = 10_000


class Parts(NamedTuple):
    """Indices into the source's training part; ``test`` is empty where the source has its own test part."""

    test: IntArray
    public: IntArray
    pool: IntArray
    validation: IntArray


@lru_cache(maxsize=2)
def _loaded(name: str, state: str) -> Source:
    return load(name)


_states: dict[str, str] = {}  # of sources' files, as they were last looked at


def refresh(source: str) -> str:
    """Look whether a source's files have changed: if so it is read again when next asked for. Its state.

    Whoever trains for months calls it; a simulation reads its data once.
    """
    _states[source] = state_of(source)
    return _states[source]


def _source(name: str) -> Source:
    return _loaded(name, _states.get(name, ""))


def split(labels: IntArray, settings: DataSettings, own_test: bool) -> Parts:
    """Test, public, pool and validation indices, all but the pool with every class in proportion.

    Validation data is taken from public data: the other parts are the same with and without it.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    rest = np.arange(len(labels))
    test, rest = (rest[:0], rest) if own_test else _take(rest, labels, settings.test_fraction, rng)
    if settings.limit and settings.limit < len(rest):
        rest = np.sort(rng.permutation(rest)[: settings.limit])
    public, pool = _take(rest, labels, settings.public_fraction, rng)
    validation, public = _take(public, labels, settings.validation_fraction, rng)
    return Parts(test, public, pool, validation)


def _take(
    indices: IntArray, labels: IntArray, fraction: float, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """(taken, rest): ``fraction`` of every class, at random."""
    taken = [
        rng.permutation(members)[: round(fraction * len(members))]
        for members in (indices[labels[indices] == label] for label in np.unique(labels[indices]))
    ]
    chosen = np.sort(np.concatenate([*taken, indices[:0]]))
    return chosen, np.setdiff1d(indices, chosen, assume_unique=True)


def partition_indices(labels: IntArray, settings: PartitionSettings) -> list[IntArray]:
    """One index array a device, every sample once.

    ``dirichlet``: each class is shared out in proportions drawn from Dirichlet(alpha) (Hsu et al. 2019),
    drawn again until every device has enough. Raises ``DataError`` where that never happens.
    """
    count = settings.devices
    if settings.kind == "none":
        return [np.arange(len(labels))]
    if len(labels) < count:
        raise DataError(f"{len(labels)} samples cannot be split over {count} devices; take fewer, or more data")
    rng = np.random.default_rng([settings.seed, count])
    if settings.kind == "iid":
        return [np.sort(part) for part in np.array_split(rng.permutation(len(labels)), count)]
    if len(labels) >= count * LEAST_SAMPLES:
        for _ in range(MOST_DRAWS):
            parts = _dirichlet(labels, settings.alpha, count, rng)
            if min(len(part) for part in parts) >= LEAST_SAMPLES:
                return parts
    raise DataError(
        f"{len(labels)} samples cannot be split over {count} devices with at least {LEAST_SAMPLES} each at "
        f"alpha {settings.alpha:g}; take fewer devices, a larger alpha or more data"
    )


def _dirichlet(labels: IntArray, alpha: float, count: int, rng: np.random.Generator) -> list[IntArray]:
    parts: list[list[IntArray]] = [[] for _ in range(count)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(count, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def described(settings: DataSettings) -> DataDescription:
    """What all of the source's training data means, its classes named by the settings."""
    return _meant(settings, None).train.description


def _meant(settings: DataSettings, contract: DataDescription | None) -> Source:
    """The source with the labels and the scale that the settings and the contract ask for."""
    source = _source(settings.source)
    parts: list[Dataset | None] = [source.train, source.test]
    if settings.classes:
        parts = [None if part is None else named(part, settings.classes) for part in parts]
    if contract is not None:
        parts = [None if part is None else adapted(part, contract) for part in parts]
    train, test = parts
    assert train is not None  # noqa: S101 - only a test part may be missing
    return Source(train, test, source.note)


def _parts(settings: DataSettings, contract: DataDescription | None) -> tuple[Source, Parts]:
    source = _meant(settings, contract)
    return source, split(source.train.y, settings, own_test=source.test is not None)


def public_data(settings: DataSettings, contract: DataDescription | None = None) -> Dataset:
    """Data that the coordinator may train on, as a run's ``contract`` has it. Raises ``DataError``."""
    source, parts = _parts(settings, contract)
    return source.train.take(parts.public)


def validation_data(settings: DataSettings, contract: DataDescription | None = None) -> Dataset:
    """Data that a run's result is chosen by: nothing trains on it, and nothing is reported of it as a result."""
    source, parts = _parts(settings, contract)
    return source.train.take(parts.validation)


def test_data(settings: DataSettings, contract: DataDescription | None = None) -> Dataset:  # noqa: PT028 - no test
    """Held-out data: only ever evaluated on. Raises ``DataError``."""
    source, parts = _parts(settings, contract)
    return source.test if source.test is not None else source.train.take(parts.test)


test_data.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest makes of its name


def device_data(
    settings: DataSettings, index: int, name: str, contract: DataDescription | None = None
) -> DeviceData:
    """The data of device ``index``, as a run's ``contract`` has it; with ``partition.kind`` "none" all of it.

    The development set is a tenth, chosen by a seed from ``name``: fixed, wherever it is computed.
    Raises ``ConfigError`` for an index outside the partition, ``DataError`` for too little data or another kind.
    """
    source, parts = _parts(settings, contract)
    shares = partition_indices(source.train.y[parts.pool], settings.partition)
    if not 0 <= index < len(shares):
        raise ConfigError(f"data.index is {index}, but the partition has devices 0 to {len(shares) - 1}")
    own = parts.pool[shares[index]]
    if len(own) < 2:
        raise DataError(f"device {name} has {len(own)} samples; it needs two at least")
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    order = np.random.default_rng(seed).permutation(own)
    development = max(1, round(DEVELOPMENT_FRACTION * len(own)))
    return DeviceData(
        name,
        source.train.take(np.sort(order[development:])),
        source.train.take(np.sort(order[:development])),
    )
