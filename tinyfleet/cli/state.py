"""Where the coordinator keeps its state, and how the commands open it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinyfleet.fedcore.errors import ConfigError

if TYPE_CHECKING:
    from tinyfleet.coordinator.store.store import Store

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state", help="The coordinator's state directory.", envvar="TINYFLEET_STATE", show_default=False
    ),
]


def default_state(environment: Mapping[str, str] = os.environ) -> Path:
    """``$TINYFLEET_STATE``, else ``$XDG_STATE_HOME/tinyfleet``, else ``~/.local/state/tinyfleet``."""
    if given := environment.get("TINYFLEET_STATE"):
        return Path(given)
    if base := environment.get("XDG_STATE_HOME"):
        return Path(base) / "tinyfleet"
    return Path.home() / ".local" / "state" / "tinyfleet"


@contextlib.contextmanager
def opened(state: Path | None, *, create: bool = False) -> Iterator[Store]:
    """The store of a state directory.

    Raises ``ConfigError`` where there is none and ``create`` is off: looking must not make one.
    """
    from tinyfleet.coordinator.store.store import Store

    directory = state or default_state()
    if not create and not (directory / "coordinator.db").exists():
        raise ConfigError(
            f"{directory} holds no coordinator's state; give --state DIR or TINYFLEET_STATE, "
            f"or start one: tinyfleet coordinator run --state {directory}"
        )
    store = Store(directory)
    try:
        yield store
    finally:
        store.close()
