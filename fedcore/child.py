"""Child processes that speak JSON: how others keep heavy work, or its memory, out of themselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import msgspec

from tinyfleet.fedcore.errors import DataError

# The reader ends with the child's stdout, at once unless a grandchild holds it open.
_READER_END_S = 1.0

_STDERR_TAIL_BYTES = 4000
_LAST_LINE_CHARACTERS = 300
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Answer = TypeVar("Answer")


class Child:
    """Runs ``python -m MODULE ARGS``; one JSON document a line each way.

    Events from the child arrive in ``receive``; its end arrives as ``{"event": "exit", "code": int}``,
    always last. Its stderr goes to ``stderr`` (inherited by default); with ``heard`` it is inherited, and the
    exit event has its last line as ``"said"``.
    """

    def __init__(
        self,
        module: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        before_exec: Callable[[], None] | None = None,
        stderr: IO[bytes] | int | None = None,
        heard: bool = False,
    ) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if heard else stderr,
            env=None if env is None else dict(env),
            preexec_fn=before_exec,
        )
        self._said = b""
        self._listener = threading.Thread(target=self._listen, name=f"{module}-stderr", daemon=True)
        if heard:
            self._listener.start()
        self._reader = threading.Thread(target=self._read, name=f"{module}-reader", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, message: Mapping[str, Any] | msgspec.Struct) -> None:
        """Write one line. A child that has ended is not an error here: its exit event tells."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(msgspec.json.encode(message) + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return

    def receive(self, timeout: float = 0.0) -> dict[str, Any] | None:
        """The next event, or None when there is none within ``timeout`` seconds."""
        try:
            return self._events.get(timeout=timeout) if timeout > 0 else self._events.get_nowait()
        except queue.Empty:
            return None

    def stop(self, grace_s: float = 5.0) -> None:
        """Close its input, wait, then terminate, then kill."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        for end in (None, self.process.terminate, self.process.kill):
            if end is not None:
                end()
            try:
                self.process.wait(grace_s)
                self._reader.join(_READER_END_S)
                return
            except subprocess.TimeoutExpired:
                continue

    def kill(self) -> None:
        """SIGKILL now."""
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._reader.join(_READER_END_S)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                try:
                    event = msgspec.json.decode(line)
                except msgspec.DecodeError:
                    continue  # a stray print of a library
                if isinstance(event, dict):
                    self._events.put(event)
        code = self.process.wait()
        ended: dict[str, Any] = {"event": "exit", "code": code}
        if self.process.stderr is not None:
            self._listener.join(_READER_END_S)
            ended["said"] = last_line(self._said)
        self._events.put(ended)

    def _listen(self) -> None:
        """Pass its stderr on as it comes, and remember how it ends."""
        assert self.process.stderr is not None
        with self.process.stderr:
            while piece := os.read(self.process.stderr.fileno(), 1 << 16):
                self._said = (self._said + piece)[-_STDERR_TAIL_BYTES:]
                with contextlib.suppress(OSError):
                    os.write(2, piece)


def die_with(parent: int) -> None:
    """The kernel ends this process when the one of id ``parent`` that started it dies, however it dies.

    It goes by the thread that started it, so that one must live as long as its process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that started this one is gone")


def last_line(stderr: bytes) -> str:
    """The last line that says anything."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:_LAST_LINE_CHARACTERS] if lines else ""


def ask(module: str, request: Any, answer_type: type[Answer], what: str, timeout_s: float) -> Answer:
    """Run ``python -m MODULE`` with ``request`` as JSON on its input; what it writes, JSON too, is the answer.

    Raises ``DataError`` where that fails or takes more than ``timeout_s`` seconds: ``what`` (such as
    "measuring memory") with the last line of its stderr.
    """
    try:
        child = subprocess.run(
            [sys.executable, "-m", module],
            input=msgspec.json.encode(request),
            capture_output=True,
            timeout=timeout_s,
            check=True,
        )
        return msgspec.json.decode(child.stdout, type=answer_type)
    except subprocess.TimeoutExpired:
        raise DataError(f"{what} took more than {timeout_s:g} s") from None
    except (subprocess.CalledProcessError, msgspec.DecodeError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise DataError(f"{what} failed: {''.join(last)}") from None
