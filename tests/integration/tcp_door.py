"""A door in front of a TCP server that a test can shut: what went through is cut, what comes is refused."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from headrace.runtime.ports import LOOPBACK, free_ports

PIECE_BYTES = 65_536


class TcpDoor:
    """Forwards connections from `port` to a loopback port while it is open."""

    def __init__(self, target_port: int) -> None:
        self.port = free_ports(1)[0]
        self._target_port = target_port
        self._listener: socket.socket | None = None
        self._through: list[socket.socket] = []

    def open(self) -> None:
        """Let connections through."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, self.port))
        listener.listen()
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """Cut what is connected, refuse what comes."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener.close()
            self._listener = None
        for side in self._through:
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()
        self._through.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection((LOOPBACK, self._target_port))
            except OSError:
                return
            self._through += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                sink.sendall(piece)
        for side in (source, sink):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


@contextmanager
def tcp_door(target_port: int) -> Iterator[TcpDoor]:
    """An open door; shut at the end."""
    door = TcpDoor(target_port)
    door.open()
    try:
        yield door
    finally:
        door.shut()
