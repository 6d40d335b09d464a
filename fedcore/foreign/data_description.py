"""What a number of a data set means: said by every board and by every run, and compared before anything is trained.

Free of numpy: the agent's supervisor says it, too. Bounded, since it comes from outside.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

MOST_CLASSES = 4096
MOST_NAME_BYTES = 36_000  # of all classes' names in JSON: with them a message stays below its 64 KiB
MOST_MESSAGE_BYTES = 44_000  # of a description in a message
MOST_REASONS = 32

ClassName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=100)]
Side: TypeAlias = Annotated[int, Meta(ge=1, le=1 << 24)]
Tally: TypeAlias = Annotated[int, Meta(ge=0, le=1 << 40)]
Bound: TypeAlias = Annotated[float, Meta(ge=-3.5e38, le=3.5e38)]
Label: TypeAlias = Annotated[str, Meta(max_length=64)]
Layout: TypeAlias = Literal["CHW", "CL", "CFT"]
"""Axes of a sample: channels, then height and width; or length; or frequency and time."""


class SkippedFiles(Struct, frozen=True, forbid_unknown_fields=True):
    """So many samples were left out for one reason, this one among them."""

    count: Tally
    example: Annotated[str, Meta(max_length=200)] = ""


class DataDescription(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A data set in a few figures. Raises ``ValueError`` where they contradict each other.

    A number is a share of the full scale where ``range`` says what zero and full scale are (pixels, mostly), else a
    measured value in ``units``.
    """

    shape: Annotated[tuple[Side, ...], Meta(min_length=1, max_length=4)]  # of a sample
    dtype: Literal["uint8", "uint16", "float32"]
    layout: Layout = "CHW"
    classes: Annotated[tuple[ClassName, ...], Meta(max_length=MOST_CLASSES)] = ()  # label 0 first
    range: tuple[Bound, Bound] | None = None  # of the scale, not of what was met
    seen: tuple[Bound, Bound] | None = None  # least and largest value met; None: there are no samples
    units: Label = ""  # of the values; empty: not said
    rate: Annotated[float, Meta(ge=0.0, le=1e9)] = 0.0  # values a second of a series; 0: none, or not said
    channels: Annotated[tuple[Label, ...], Meta(max_length=64)] = ()  # their names in order; empty: not said
    front_end: Annotated[dict[Label, int | float | Label], Meta(max_length=32)] = {}  # how values were computed
    samples: Annotated[tuple[Tally, ...], Meta(max_length=MOST_CLASSES)] = ()  # a class; empty: not said
    unlabelled: Tally = 0  # samples without a label, which train nothing
    skipped: Annotated[dict[Label, SkippedFiles], Meta(max_length=MOST_REASONS)] = {}  # by reason

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have one name")
        if len(msgspec.json.encode(self.classes)) > MOST_NAME_BYTES:
            raise ValueError(f"the classes' names take more than {MOST_NAME_BYTES} bytes; give shorter ones")
        if self.samples and len(self.samples) != len(self.classes):
            raise ValueError(f"{len(self.samples)} counts of samples for {len(self.classes)} classes")
        for pair, strict in ((self.range, True), (self.seen, False)):
            if pair is not None and not (
                all(map(math.isfinite, pair)) and (pair[0] < pair[1] or (pair[0] == pair[1] and not strict))
            ):
                raise ValueError(f"{pair[0]:g} to {pair[1]:g} is no range of values")

    @property
    def full_scale(self) -> float:
        """What values are divided by on their way into training; 1 for measured ones."""
        return self.range[1] - self.range[0] if self.range else 1.0


def abridged(description: DataDescription) -> DataDescription:
    """As much of it as a message has room for: of many classes, what was skipped and the counts stay at home."""
    if len(msgspec.json.encode(description)) <= MOST_MESSAGE_BYTES:
        return description
    brief = msgspec.structs.replace(description, skipped={})
    if len(msgspec.json.encode(brief)) <= MOST_MESSAGE_BYTES:
        return brief
    return msgspec.structs.replace(brief, samples=())


def as_contract(description: DataDescription) -> DataDescription:
    """What is asked of others: all but how much there is here."""
    return msgspec.structs.replace(description, samples=(), unlabelled=0, skipped={})


def is_numbered(classes: tuple[str, ...]) -> bool:
    """True for the names that labels have where nobody named them."""
    return classes == tuple(map(str, range(len(classes))))
