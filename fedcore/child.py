"""Child processes that speak JSON: how others keep heavy work, or its memory, out of themselves."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, TypeVar

import msgspec

from tinyfleet.fedcore.errors import DataError

# The reader ends with the child's stdout, at once unless a grandchild holds it open.
_READER_END_S = 1.0

Answer = TypeVar("Answer")


class Child:
    """Runs ``python -m MODULE ARGS``; one JSON document a line each way.

    Events from the child arrive in ``receive``; its end arrives as ``{"event": "exit", "code": int}``,
    always last. Its stderr goes to ``stderr`` (inherited by default).
    """

    def __init__(
        self,
        module: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str] | None = None,
        before_exec: Callable[[], None] | None = None,
        stderr: IO[bytes] | int | None = None,
    ) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=None if env is None else dict(env),
            preexec_fn=before_exec,
        )
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
        self._events.put({"event": "exit", "code": self.process.wait()})


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
