"""What is odd about a data set, before it costs a run: found by looking at every sample once."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tinyfleet.fedcore.datasets.dataset import Dataset

MOST_UNEVEN = 10.0  # the largest class by the smallest
LEAST_SAMPLES = 20  # of a class: a tenth of them is two


class WarningKind(StrEnum):
    """What a warning is about."""

    DUPLICATES = "duplicates"  # equal samples within the training part
    CONTRADICTION = "contradiction"  # equal samples of two classes
    LEAKAGE = "leakage"  # equal samples in training and test part: the accuracy will be too high
    IMBALANCE = "imbalance"  # classes of very different sizes
    FEW = "few"  # classes with too few samples, or none
    CONSTANT = "constant"  # samples all of whose values are equal
    SKIPPED = "skipped"  # what was left out
    UNLABELLED = "unlabelled"  # samples that train nothing


@dataclass(frozen=True, slots=True)
class DataWarning:
    """One odd thing, in words."""

    kind: WarningKind
    message: str


def warnings_of(train: Dataset, test: Dataset | None) -> list[DataWarning]:
    """All that is odd, in the order of ``WarningKind``."""
    digests = _digests(train)
    found = [*_duplicates(train, digests), *_leakage(digests, test), *_sizes(train)]
    rows = train.x.reshape(len(train), -1)
    if flat := int((rows.max(axis=1) == rows.min(axis=1)).sum()):
        message = f"{flat} samples hold one value only: black images, dead sensors"
        found.append(DataWarning(WarningKind.CONSTANT, message))
    for reason, one in train.meaning.skipped.items():
        found.append(DataWarning(WarningKind.SKIPPED, f"{one.count} left out: {reason} ({one.example})"))
    if train.meaning.unlabelled:
        found.append(DataWarning(WarningKind.UNLABELLED, f"{train.meaning.unlabelled} samples have no label"))
    return found


def _digests(data: Dataset) -> list[bytes]:
    return [hashlib.blake2b(np.ascontiguousarray(one).data, digest_size=16).digest() for one in data.x]


def _duplicates(train: Dataset, digests: list[bytes]) -> list[DataWarning]:
    found = []
    if again := len(digests) - len(set(digests)):
        message = f"{again} of {len(digests)} training samples equal an earlier one"
        found.append(DataWarning(WarningKind.DUPLICATES, message))
    names = train.description.classes
    labels: dict[bytes, int] = {}
    both: Counter[tuple[int, int]] = Counter()
    for digest, label in zip(digests, train.y.tolist(), strict=True):
        first = labels.setdefault(digest, label)
        if first != label:
            both[min(first, label), max(first, label)] += 1
    if both:
        (one, other), _ = both.most_common(1)[0]
        message = f"{both.total()} samples stand in two classes, {names[one]} and {names[other]} among them"
        found.append(DataWarning(WarningKind.CONTRADICTION, message))
    return found


def _leakage(digests: list[bytes], test: Dataset | None) -> list[DataWarning]:
    known = set(digests)
    leaked = sum(digest in known for digest in _digests(test)) if test is not None else 0
    if not leaked or test is None:
        return []
    message = f"{leaked} of {len(test)} test samples are training samples as well: its accuracy will be too high"
    return [DataWarning(WarningKind.LEAKAGE, message)]


def _sizes(train: Dataset) -> list[DataWarning]:
    told = train.description
    counts = dict(zip(told.classes, told.samples, strict=True))
    found = []
    met = {name: count for name, count in counts.items() if count}
    if met and max(met.values()) > MOST_UNEVEN * min(met.values()):
        most, least = max(met, key=lambda name: met[name]), min(met, key=lambda name: met[name])
        message = f"class {most} has {met[most]} samples, class {least} has {met[least]}"
        found.append(DataWarning(WarningKind.IMBALANCE, message))
    if few := [f"{name} {count}" for name, count in counts.items() if count < LEAST_SAMPLES]:
        more = f" and {len(few) - 8} more" if len(few) > 8 else ""
        message = f"classes with fewer than {LEAST_SAMPLES} samples: {', '.join(few[:8])}{more}"
        found.append(DataWarning(WarningKind.FEW, message))
    return found
