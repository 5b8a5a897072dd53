"""A server on 127.0.0.1 that says byte by byte what it is told to, HTTP or not."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

Talk = Callable[[socket.socket, "RawServer"], None]
"""Answers one request on a connection, whose head has been read."""
BEAT = 0.02  # seconds between the bytes of a drip


class RawServer:
    """Answers each connection's first request with `talk` while the `with` block lasts."""

    def __init__(self, talk: Talk) -> None:
        self.heads: list[bytes] = []
        self.is_over = threading.Event()
        self._talk = talk
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in (self._thread, *self._threads):
            thread.join()

    def drip(self, connection: socket.socket, data: bytes) -> None:
        """Send these bytes one by one, again and again, until the client goes away."""
        while not self.is_over.wait(BEAT):
            connection.sendall(data[:1])
            data = data[1:] + data[:1]

    def _serve(self) -> None:
        while not self.is_over.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client has gone: that is all right
            head = b""
            while b"\r\n\r\n" not in head:
                data = connection.recv(4096)
                if not data:
                    return
                head += data
            self.heads.append(head)
            self._talk(connection, self)


def say(head: str, body: bytes = b"", *headers: str) -> Talk:
    """Answer with a status line, headers and a body, and close."""

    def talk(connection: socket.socket, server: RawServer) -> None:
        lines = [f"HTTP/1.1 {head}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    return talk


def drip_headers(connection: socket.socket, server: RawServer) -> None:
    """Begin an answer, and never come to the end of its headers."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    server.drip(connection, b"z")


def drip_body(connection: socket.socket, server: RawServer) -> None:
    """Begin a body, and never come to its end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    server.drip(connection, b"z")


def say_nothing(connection: socket.socket, server: RawServer) -> None:
    """Keep the connection open, and never answer."""
    server.is_over.wait()
