"""An HTTP server on 127.0.0.1 that can be told to fail as the servers of hubs do."""

import json
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]  # names in lower case
    body: bytes = b""

    def get(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Reply:
    """What the server answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes of the body after which the connection breaks
    stall: int | None = None  # bytes of the body after which nothing comes until the server ends

    @classmethod
    def json(cls, content: Any, status: int = 200, **headers: str) -> "Reply":
        return cls(
            status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
        )


Trouble = Callable[[Reply], Reply]


class LocalServer(ABC):
    """Answers on a free port while the `with` block lasts; remembers what it was asked.

    A subclass says what it answers. Trouble that is ordered with `fail`, `cut`, `stall`, `garble`
    or `disturb` comes once a matching request each, in the order of the orders.
    """

    def __init__(self, port: int = 0) -> None:
        self.requests: deque[Request] = deque(maxlen=20_000)
        self._trouble: deque[tuple[str, Trouble]] = deque()
        self._lock = threading.RLock()
        self.ended = threading.Event()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()

    @abstractmethod
    def answer(self, request: Request) -> Reply:
        """Return the reply to a request, before any trouble."""

    def asked(self, path: str) -> list[Request]:
        """Return the requests whose path holds these words."""
        return [request for request in self.requests if path in request.path]

    def fail(
        self, status: int, *, path: str = "", times: int = 1, retry_after: float | None = None
    ) -> None:
        headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
        failure = Reply.json({"error": HTTPStatus(status).phrase}, status, **headers)
        self.disturb(lambda reply: failure, path=path, times=times)

    def cut(self, at: int = 100, *, path: str = "", times: int = 1) -> None:
        """Break the connection in the middle of a body."""
        self.disturb(lambda reply: replace(reply, cut=at), path=path, times=times)

    def stall(self, at: int = 100, *, path: str = "", times: int = 1) -> None:
        """Send nothing any more in the middle of a body, and keep the connection."""
        self.disturb(lambda reply: replace(reply, stall=at), path=path, times=times)

    def garble(self, *, path: str = "", times: int = 1) -> None:
        """Send the first half of a body as if it were all."""
        self.disturb(
            lambda reply: replace(reply, body=reply.body[: len(reply.body) // 2]),
            path=path,
            times=times,
        )

    def disturb(self, trouble: Trouble, *, path: str = "", times: int = 1) -> None:
        """Change the next replies to requests whose path holds these words."""
        with self._lock:
            self._trouble.extend([(path, trouble)] * times)

    def reply(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            answer = self.answer(request)
            for place, (path, trouble) in enumerate(self._trouble):
                if path in request.path:
                    del self._trouble[place]
                    return trouble(answer)
            return answer


@contextmanager
def serving(server: LocalServer) -> Iterator[LocalServer]:
    with server:
        yield server


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that goes away is nothing to tell


def _handler(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def _serve(self) -> None:
            split = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            reply = server.reply(
                Request(
                    self.command,
                    unquote(split.path),
                    parse_qs(split.query, keep_blank_values=True),
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(length),
                )
            )
            self._send(reply)

        def _send(self, reply: Reply) -> None:
            self.send_response(reply.status)
            headers = {"Content-Length": str(len(reply.body)), **reply.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                self.wfile.flush()
                return
            if reply.stall is not None:
                self.wfile.write(reply.body[: reply.stall])
                self.wfile.flush()
                server.ended.wait()
                self.close_connection = True
            elif reply.cut is not None:
                self.wfile.write(reply.body[: reply.cut])
                self.close_connection = True
            else:
                self.wfile.write(reply.body)
            self.wfile.flush()

        do_GET = do_POST = do_HEAD = _serve  # noqa: N815 (the names that the library looks for)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
