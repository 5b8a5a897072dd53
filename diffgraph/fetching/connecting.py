"""How is a connection made to the very address that was checked, and kept within a deadline?

httpx connects through the network backends of httpcore; ours resolve a name, ask `AddressPolicy`
which of its addresses may be used, and connect to those by number. TLS still checks the name.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from diffgraph.fetching.addresses import AddressPolicy

if TYPE_CHECKING:
    import ssl


Way = TypeVar("Way", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class Deadline:
    """Until when a server may answer; it can be put off while it does.

    Attributes:
        moment: Of `time.monotonic`.
    """

    def __init__(self, moment: float) -> None:
        self.moment = moment


class DeadlineExceeded(Exception):
    """The deadline has passed."""


_deadline: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def deadline(moment: float) -> Iterator[Deadline]:
    """Let no connection of this thread wait for a server beyond a moment of `time.monotonic`.

    Raises:
        DeadlineExceeded: It has passed, wherever the server was with its answer.
    """
    chosen = Deadline(moment)
    token = _deadline.set(chosen)
    try:
        yield chosen
    finally:
        _deadline.reset(token)


def _left(timeout: float | None) -> float | None:
    """Return the seconds that one wait may take."""
    chosen = _deadline.get()
    if chosen is None:
        return timeout
    left = chosen.moment - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection on which each wait ends with the deadline."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _in_time():
            return self._stream.read(max_bytes, _left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _in_time():
            self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: "ssl.SSLContext",
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        with _in_time():
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(timeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@contextmanager
def _in_time() -> Iterator[None]:
    """Tell a wait that the deadline ended from one that was too long by itself."""
    try:
        yield
    except httpcore.TimeoutException:
        _left(None)
        raise


class Backend(httpcore.NetworkBackend):
    """Connects to addresses that may be asked, for threads."""

    def __init__(self, policy: AddressPolicy, inner: httpcore.NetworkBackend | None = None) -> None:
        self._policy = policy
        self._inner = inner or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        try:
            addresses = self._policy.addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in addresses:
            try:
                with _in_time():
                    return _Stream(
                        self._inner.connect_tcp(
                            address, port, _left(timeout), local_address, socket_options
                        )
                    )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """The same for event loops, which have deadlines of their own."""

    def __init__(
        self, policy: AddressPolicy, inner: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._policy = policy
        self._inner = inner or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        try:
            addresses = await asyncio.to_thread(self._policy.addresses, host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        for address in addresses:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Ways(Generic[Way]):
    """A direct connection, or one through the proxy that the environment names, if any."""

    def __init__(self, make: Callable[..., Way], pool: Callable[..., Any], backend: object) -> None:
        self._make: Callable[..., Way] = make
        context = httpx.create_ssl_context()
        direct: Any = make(verify=context)
        # httpx has no parameter for the network backend; httpcore's pool has
        direct._pool = pool(ssl_context=context, network_backend=backend)
        self._ways: dict[str | None, Way] = {None: direct}

    def _way(self, request: httpx.Request) -> Way:
        proxy = proxy_of(request.url)
        if proxy not in self._ways:
            self._ways[proxy] = self._make(proxy=proxy)
        return self._ways[proxy]


class Transport(_Ways[httpx.HTTPTransport], httpx.BaseTransport):
    """Sends the requests of threads."""

    def __init__(self, policy: AddressPolicy, inner: httpcore.NetworkBackend | None = None) -> None:
        super().__init__(httpx.HTTPTransport, httpcore.ConnectionPool, Backend(policy, inner))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._way(request).handle_request(request)

    def close(self) -> None:
        for way in self._ways.values():
            way.close()


class AsyncTransport(_Ways[httpx.AsyncHTTPTransport], httpx.AsyncBaseTransport):
    """Sends the requests of an event loop."""

    def __init__(
        self, policy: AddressPolicy, inner: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        backend = AsyncBackend(policy, inner)
        super().__init__(httpx.AsyncHTTPTransport, httpcore.AsyncConnectionPool, backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._way(request).handle_async_request(request)

    async def aclose(self) -> None:
        for way in self._ways.values():
            await way.aclose()


def proxy_of(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for an address, if any."""
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy and not proxy_bypass(url.host) else None
