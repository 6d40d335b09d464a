"""A link to a broker that is slow, far, lossy or cut: a proxy on loopback that counts what passes."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from dataclasses import dataclass

PIECE_BYTES = 4096


@dataclass(frozen=True)
class LinkFaults:
    """``loss``: share of pieces after which the stream stands for ``stall_s``, as TCP's does for a lost packet."""

    delay_s: float = 0.0  # each way
    bytes_per_s: float = 0.0  # each way; 0: as fast as it goes
    loss: float = 0.0
    stall_s: float = 0.4
    cut_every_bytes: int = 0  # of both ways together; 0: never


class BadLink:
    """Listens on ``port``, and passes on to ``broker_port``. ``up`` and ``down`` count bytes that arrived."""

    def __init__(self, broker_port: int, faults: LinkFaults, seed: int = 0) -> None:
        self._broker_port, self._faults = broker_port, faults
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.up = self.down = self.cuts = 0
        self._until_cut = faults.cut_every_bytes
        self._lock = threading.Lock()
        self._open = 0  # connections
        self._closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Returns when nothing is open any more."""
        self._closed.set()
        # A thread that waits in accept is not woken by close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self._open:
            time.sleep(0.01)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                broker = socket.create_connection(("127.0.0.1", self._broker_port))
                with self._lock:
                    self._open += 1
                for sock in (device, broker):
                    # Little in the kernel: what is under way when it is cut is lost, as on a real link.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._connect, args=(device, broker), daemon=True).start()

    def _connect(self, device: socket.socket, broker: socket.socket) -> None:
        with device, broker:
            back = threading.Thread(target=self._pass, args=(broker, device, "down"), daemon=True)
            back.start()
            self._pass(device, broker, "up")
            back.join()
        with self._lock:
            self._open -= 1

    def _pass(self, source: socket.socket, target: socket.socket, way: str) -> None:
        """Pieces wait for their delay, one behind another for the rate."""
        faults, free_at = self._faults, 0.0
        waiting: list[tuple[float, bytes]] = []
        try:
            while not self._closed.is_set():
                now = time.monotonic()
                if waiting and waiting[0][0] <= now:
                    piece = waiting.pop(0)[1]
                    target.sendall(piece)
                    if self._count(way, len(piece)):
                        break
                    continue
                room = free_at <= now + faults.delay_s + 0.05
                patience = min(0.05, max(0.0, waiting[0][0] - now)) if waiting else 0.05
                readable, _, _ = select.select([source] if room else [], [], [], patience)
                if not readable:
                    continue
                piece = source.recv(PIECE_BYTES)
                if not piece:
                    break
                took = len(piece) / faults.bytes_per_s if faults.bytes_per_s else 0.0
                if self._rng.random() < faults.loss:
                    took += faults.stall_s
                free_at = max(free_at, now) + took
                waiting.append((free_at + faults.delay_s, piece))
            for _, piece in waiting if not self._closed.is_set() else ():
                target.sendall(piece)
        except OSError:
            pass
        finally:
            for sock in (source, target):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _count(self, way: str, size: int) -> bool:
        """True where the connection is to be cut now."""
        with self._lock:
            setattr(self, way, getattr(self, way) + size)
            if not self._faults.cut_every_bytes:
                return False
            self._until_cut -= size
            if self._until_cut > 0:
                return False
            self._until_cut = round(self._faults.cut_every_bytes * self._rng.uniform(0.5, 1.5))
            self.cuts += 1
            return True
