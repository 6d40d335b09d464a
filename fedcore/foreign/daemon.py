"""A program that runs for weeks: its log, and that no thread of it dies unseen."""

from __future__ import annotations

import logging
import os
import threading

from tinyfleet.fedcore.foreign.shown import log_to_stderr

log = logging.getLogger(__name__)

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h


def log_as_daemon(level: str) -> None:
    """The log of either program, under whatever name it was started; ``level`` such as "info"."""
    log_to_stderr(level.upper(), "%(asctime)s %(levelname)s %(name)s: %(message)s")


def end_with_any_thread() -> None:
    """From now on an error that ends a thread is logged, and ends this process with ``EXIT_CODE``.

    At once, as by ``kill -9``, which loses no finished work: what a broken thread holds may never be let go.
    Whoever has a hook of their own keeps it.
    """
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _end


def _end(dead: threading.ExceptHookArgs) -> None:
    name = "a thread" if dead.thread is None else f"thread {dead.thread.name}"
    log.critical("%s died; the program ends, to be started again", name, exc_info=dead.exc_value)
    os._exit(EXIT_CODE)
