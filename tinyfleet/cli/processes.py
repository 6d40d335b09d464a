"""``tinyfleet coordinator`` and ``tinyfleet agent``: the two programs under one roof."""

from __future__ import annotations

from typing import Any

import typer

from tinyfleet.cli.state import default_state

PASS_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
}


def coordinator(context: typer.Context) -> None:
    """The gateway's program, as the console script `coordinator`; see `tinyfleet coordinator --help`."""
    from tinyfleet.coordinator.cli import main

    arguments = list(context.args)
    if arguments and not arguments[0].startswith("-") and not _gives(arguments, "--state", "--help", "-h"):
        arguments += ["--state", str(default_state())]
    main(arguments or ["--help"])


def agent(context: typer.Context) -> None:
    """The board's program, as the console script `edge-agent`; see `tinyfleet agent --help`."""
    from tinyfleet.edge_agent.cli import main

    main(list(context.args) or ["--help"])


def _gives(arguments: list[str], *options: str) -> bool:
    return any(argument.split("=")[0] in options for argument in arguments)
