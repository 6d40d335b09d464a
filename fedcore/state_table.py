"""A state machine as its table: (state, event) -> state. What both daemons' machines are made of and drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class StateTable(Generic[S, E]):
    """Where a machine starts, and its arrows; every event leads to one state, whatever state it leaves.

    Raises ``ValueError`` for an event that leads to two.
    """

    start: S
    arrows: Mapping[tuple[S, E], S]

    def __post_init__(self) -> None:
        targets: dict[E, S] = {}
        for (state, event), target in self.arrows.items():
            if targets.setdefault(event, target) is not target:
                raise ValueError(f"{event} leads from {state} to {target}, and from elsewhere to {targets[event]}")

    def after(self, state: S, event: E) -> S:
        """The state after ``event``: the same where there is no arrow, as for late and duplicate messages."""
        return self.arrows.get((state, event), state)

    def allows(self, state: S, event: E) -> bool:
        """True where ``event`` means something in ``state``."""
        return (state, event) in self.arrows

    def sources(self, event: E) -> tuple[S, ...]:
        """The states that ``event`` leaves, in the table's order."""
        return tuple(state for state, happens in self.arrows if happens == event)

    def target(self, event: E) -> S:
        """The state that ``event`` leads to. Raises ``KeyError`` for one that the table does not name."""
        for (_, happens), target in self.arrows.items():
            if happens == event:
                return target
        raise KeyError(event)

    @property
    def final(self) -> tuple[S, ...]:
        """The states that no event leaves."""
        left = {state for state, _ in self.arrows}
        return tuple(dict.fromkeys(target for target in self.arrows.values() if target not in left))

    def mermaid(self) -> str:
        """The table as a mermaid state diagram, events between the same two states on one arrow."""
        drawn: dict[tuple[S, S], list[str]] = {}
        for (state, event), target in self.arrows.items():
            drawn.setdefault((state, target), []).append(event.value)
        lines = ["stateDiagram-v2", f"    [*] --> {self.start.value}"]
        lines += [f"    {a.value} --> {b.value}: {', '.join(events)}" for (a, b), events in drawn.items()]
        lines += [f"    {state.value} --> [*]" for state in self.final]
        return "\n".join(lines)
