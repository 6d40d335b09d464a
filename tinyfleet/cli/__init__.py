"""The ``tinyfleet`` command line: one file per command group, nothing heavy imported before a command runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point. An error meant for a person is one line and its exit code; ``--debug`` shows where it arose."""
    from tinyfleet.cli.app import app
    from tinyfleet.fedcore.errors import TinyfleetError
    from tinyfleet.fedcore.foreign.shown import printable

    try:
        app(prog_name="tinyfleet")
    except (TinyfleetError, ValueError) as error:
        # device_profiles knows nothing of ours: its error is a ValueError with an exit code.
        code = getattr(error, "exit_code", None)
        if code is None or "--debug" in sys.argv:
            raise
        sys.stderr.write(f"tinyfleet: {printable(str(error))}\n")
        sys.exit(code)


__all__ = ["main"]
