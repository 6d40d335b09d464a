"""Whether two sides mean the same by their numbers: a board's own data, and what a run wants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tinyfleet.fedcore.errors import DataError
from tinyfleet.fedcore.foreign.data_description import DataDescription

MOST_SHOWN = 12  # classes in a message
# Measured values on both sides of which neither says a scale: so far apart they are not of one kind. Fractions and
# bytes are 255 apart; a quiet sensor and a busy one are less.
MOST_APART = 64.0
RATE_TOLERANCE = 0.01  # of a sampling rate: clocks of sensors differ by less


@dataclass(frozen=True, slots=True)
class DataDisagreement:
    """One thing that two sides do not mean alike, in words of both."""

    what: str  # classes, shape, layout, value range, units, rate, channels, front end
    own: str
    wanted: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: here {self.own}, wanted {self.wanted}; {self.remedy}"


def disagreements(own: DataDescription, wanted: DataDescription) -> list[DataDisagreement]:
    """All that has to change before ``own`` data may train what ``wanted`` describes; empty: nothing.

    A class that is missing here is fine, and one that is empty here as well; classes and channels in another order
    are, and full scales of another size: ``adapted`` brings them over.
    """
    found = [_classes(own, wanted), _shape(own, wanted), _values(own, wanted), _rate(own, wanted)]
    if own.units and wanted.units and own.units != wanted.units:
        found.append(DataDisagreement("units", own.units, wanted.units, f"convert to {wanted.units}"))
    if own.channels and wanted.channels and sorted(own.channels) != sorted(wanted.channels):
        remedy = "record these channels, or name them as the run does"
        found.append(DataDisagreement("channels", _names(own.channels), _names(wanted.channels), remedy))
    if own.front_end != wanted.front_end:
        remedy = "set the data source's parameters to those of the run"
        found.append(DataDisagreement("front end", _settings(own), _settings(wanted), remedy))
    return [one for one in found if one]


def label_map(own: tuple[str, ...], wanted: tuple[str, ...], samples: tuple[int, ...] = ()) -> tuple[int, ...]:
    """The run's label of every own label, by the class's name; -1 of one that is not known there.

    Raises ``DataError`` where such a one has samples; without ``samples``, each has.
    """
    labels = {name: label for label, name in enumerate(wanted)}
    if unknown := _unknown(own, wanted, samples):
        raise DataError(f"classes {_names(unknown)} are not among the run's: {_names(wanted)}")
    return tuple(labels.get(name, -1) for name in own)


def brief(one: DataDescription) -> str:
    """A data set in a line: samples by class, shape, type and range."""
    counts = [f"{name} {count}" for name, count in zip(one.classes, one.samples, strict=False)]
    left_out = sum(skipped.count for skipped in one.skipped.values())
    return (
        f"{sum(one.samples)} samples of {len(one.classes)} classes: {_names(counts)}; "
        f"{sides(one.shape)}, {_range(one)}" + (f"; {left_out} left out" if left_out else "")
    )


def _unknown(own: tuple[str, ...], wanted: tuple[str, ...], samples: tuple[int, ...]) -> list[str]:
    known = set(wanted)
    counts = samples or (1,) * len(own)
    return [name for name, count in zip(own, counts, strict=True) if count and name not in known]


def _classes(own: DataDescription, wanted: DataDescription) -> DataDisagreement | None:
    if not wanted.classes or not (unknown := _unknown(own.classes, wanted.classes, own.samples)):
        return None
    alike = {name.casefold().strip(): name for name in wanted.classes}
    meant = [(name, alike[name.casefold().strip()]) for name in unknown if name.casefold().strip() in alike]
    if meant:
        remedy = "write " + ", ".join(f"{right!r} for {name!r}" for name, right in meant[:MOST_SHOWN])
    elif all(name.isdecimal() for name in own.classes) and not all(n.isdecimal() for n in wanted.classes):
        remedy = "give the labels their names: 'classes' in the file of arrays"
    else:
        remedy = f"rename or remove {_names(unknown)}, or submit the run with data.classes that has them"
    return DataDisagreement("classes", _names(own.classes), _names(wanted.classes), remedy)


def _shape(own: DataDescription, wanted: DataDescription) -> DataDisagreement | None:
    if own.shape == wanted.shape:
        if own.layout == wanted.layout:
            return None
        remedy = "give data of the same kind: images, series or spectrograms"
        return DataDisagreement("layout", own.layout, wanted.layout, remedy)
    return DataDisagreement("shape", sides(own.shape), sides(wanted.shape), shape_remedy(own.shape, wanted.shape))


def shape_remedy(own: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """What brings samples of one shape to another, in words."""
    if own[-1:] + own[:-1] == wanted:
        return "these are channels last: say layout, or move the channel axis to the front"
    if wanted[:1] == (1,) and own == wanted[1:]:
        return "the axis of the one channel is missing: say layout, or give x[:, None]"
    if len(own) != len(wanted):
        return f"a sample has {len(wanted)} axes there: channels first"
    if own[1:] == wanted[1:]:
        return f"give {wanted[0]} channels"
    return f"bring all samples to {sides(wanted)}"


def _values(own: DataDescription, wanted: DataDescription) -> DataDisagreement | None:
    shown = "value range", _range(own), _range(wanted)
    if (own.range is None) != (wanted.range is None):
        return DataDisagreement(
            *shown, "say on both sides what zero and full scale are: 'range' in the file of arrays"
        )
    said = own.range or (own.units and own.units == wanted.units)
    if said or own.seen is None or wanted.seen is None:
        return None
    sizes = sorted(max(map(abs, seen)) for seen in (own.seen, wanted.seen))
    if sizes[0] > 0 and sizes[1] / sizes[0] > MOST_APART:
        return DataDisagreement(
            *shown, "bring both to one scale; if they are, say so: units, or range, on both sides"
        )
    return None


def _rate(own: DataDescription, wanted: DataDescription) -> DataDisagreement | None:
    if not own.rate or not wanted.rate or abs(own.rate - wanted.rate) <= RATE_TOLERANCE * wanted.rate:
        return None
    remedy = f"resample to {wanted.rate:g} a second"
    return DataDisagreement("rate", f"{own.rate:g} a second", f"{wanted.rate:g} a second", remedy)


def _range(one: DataDescription) -> str:
    if one.range:
        return f"{one.range[0]:g} to {one.range[1]:g} ({one.dtype})"
    met = f", {one.seen[0]:g} to {one.seen[1]:g} met" if one.seen else ""
    return f"{one.units or 'no scale said'} ({one.dtype}{met})"


def _settings(one: DataDescription) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(one.front_end.items())) or "none"


def sides(shape: tuple[int, ...]) -> str:
    """A shape in words."""
    return "(" + ", ".join(map(str, shape)) + ")"


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - MOST_SHOWN} more" if len(listed) > MOST_SHOWN else ""
    return (", ".join(listed[:MOST_SHOWN]) or "none") + more
