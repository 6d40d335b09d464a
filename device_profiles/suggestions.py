"""What a person may have meant by a name that is unknown: the one wording of such hints in all packages."""

from __future__ import annotations

from collections.abc import Iterable

# Of difflib's likeness, 0 to 1: low enough that "batery" finds "battery" and a swapped pair of letters its word.
_LIKENESS = 0.5


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``; None where none is near, or ``name`` is known."""
    import difflib  # 140 kB that a daemon would hold for ever

    near = difflib.get_close_matches(name, tuple(known), n=1, cutoff=_LIKENESS)
    return near[0] if near and near[0] != name else None


def hint(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or ``choose from x, y, z`` where nothing is near."""
    names = tuple(known)
    near = nearest(name, names)
    return f"choose from {', '.join(names)}" if near is None else f"did you mean {near!r}?"
