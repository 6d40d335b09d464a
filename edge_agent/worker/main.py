"""The worker process: reads commands as JSON lines, answers with events (``commands``), trains in between.

Nothing heavy is imported before the first command. A thread of its own listens, so that a task
can be tightened while it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from tinyfleet.edge_agent.worker.commands import (
    Command,
    DescribeCommand,
    MaskMissing,
    OverBudget,
    TaskCommand,
    TaskFailed,
    TightenCommand,
    Unfit,
    WorkerEvent,
)
from tinyfleet.edge_agent.worker.description import describe
from tinyfleet.edge_agent.worker.memory_limit.out_of_memory import at_data_limit, is_raised
from tinyfleet.edge_agent.worker.trainer import Emit, Trainer
from tinyfleet.fedcore.child import die_with
from tinyfleet.fedcore.errors import ConfigError, DataError, TinyfleetError, UnknownMask


def perform(command: TaskCommand | DescribeCommand, trainer: Trainer, emit: Emit) -> bool:
    """One command; every error becomes an event. False where the process should not go on."""
    try:
        if isinstance(command, DescribeCommand):
            emit(describe(command))
        else:
            trainer.run(command)
    except UnknownMask as error:
        emit(MaskMissing(error.digest, str(error)))
    except (ConfigError, DataError) as error:
        emit(Unfit(type(error).__name__, _first_line(error)))
    except Exception as error:  # noqa: BLE001 - a worker reports whatever happens and leaves the deciding to others
        # C extensions report a failed allocation as any error they like.
        if is_raised(error) or (not isinstance(error, TinyfleetError) and at_data_limit()):
            emit(OverBudget(f"{type(error).__name__}: {_first_line(error)}"))
            return False
        emit(TaskFailed(type(error).__name__, _first_line(error)))
        if not isinstance(error, TinyfleetError):
            sys.excepthook(*sys.exc_info())  # to the log: a defect's traceback is wanted
    return True


def received(stream: IO[bytes], tighten: Callable[[], None]) -> Iterator[TaskCommand | DescribeCommand]:
    """Commands until the supervisor closes the stream. The thread that listens calls ``tighten`` at once."""
    decoder = msgspec.json.Decoder(Command)
    waiting: queue.SimpleQueue[TaskCommand | DescribeCommand | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            for line in stream:
                command = decoder.decode(line)
                if isinstance(command, TightenCommand):
                    tighten()
                else:
                    waiting.put(command)
        finally:
            waiting.put(None)

    threading.Thread(target=listen, name="commands", daemon=True).start()
    while (command := waiting.get()) is not None:
        yield command


def main() -> None:
    """Serve commands: one under ``--policy fresh``, else until stdin closes."""
    parser = argparse.ArgumentParser(prog="python -m tinyfleet.edge_agent.worker.main", description=__doc__)
    parser.add_argument("--policy", choices=("fresh", "warm"), default="fresh")
    parser.add_argument("--parent", type=int, default=0, help="process to die with")
    options = parser.parse_args()
    if options.parent:
        die_with(options.parent)
    _offer_to_oom_killer()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in a terminal is the supervisor's to handle
    out = _private_stdout()

    def emit(event: WorkerEvent) -> None:
        out.write(msgspec.json.encode(event) + b"\n")

    trainer = Trainer(emit)
    for command in received(sys.stdin.buffer, trainer.tighten):
        if not perform(command, trainer, emit) or options.policy == "fresh":
            break
    # Tearing down a framework takes time and can crash; all results are on disk.
    sys.stderr.flush()
    os._exit(0)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:1000]


def _private_stdout() -> IO[bytes]:
    """Keep stdout for events alone: whatever a library prints goes to stderr from now on."""
    private = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr  # which is written line by line: nothing of it is lost when the process is ended
    return private


def _offer_to_oom_killer() -> None:
    """Where the whole board runs out of memory, the kernel takes this process, not the supervisor."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


if __name__ == "__main__":
    main()
