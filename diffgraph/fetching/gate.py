"""Every request to another machine goes through here.

Addresses are checked before they are asked, redirects too; a token goes to the origins that it was
given for and to no other; an answer comes in the encoding that was asked for; all of it, from the
name to the last byte, comes before a deadline. What goes wrong is raised as errors of ours.
"""

import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from pydantic import SecretStr

from diffgraph.errors import ServiceRefused
from diffgraph.fetching.addresses import AddressPolicy, origin, shown
from diffgraph.fetching.encodings import ContentDecoder
from diffgraph.fetching.waiting import TransientFailure
from diffgraph.secrets import keep_secret

if TYPE_CHECKING:
    import httpcore
    import httpx

AGENT = "diffgraph"
REDIRECTS = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 8
MANY_PIECES, SMALL_PIECE = 50_000, 64  # of a body; bytes: each piece costs as much as kilobytes


class _Gate:
    """What is the same for threads and for event loops.

    Args:
        homes: Addresses that the user named: the token is for them, and they need not be public.
        token: Sent as `Authorization: Bearer` to these origins only.
        policy: Which addresses may be asked; by default public ones and the homes.
        silence: Seconds until the next byte.
    """

    def __init__(
        self,
        homes: Collection[str],
        token: SecretStr | None,
        policy: AddressPolicy | None,
        silence: float,
    ) -> None:
        import httpx

        keep_secret(token)
        self.token = token
        self.silence = silence
        self.policy = policy or AddressPolicy(homes)
        self._origins = {origin(httpx.URL(home)) for home in homes}

    def _request(
        self,
        method: str,
        url: "httpx.URL",
        headers: Mapping[str, str],
        encoding: str,
        content: object = None,
    ) -> "httpx.Request":
        """Return a request that an address may get; raises `AddressRefused`."""
        import httpx

        self.policy.check(url)
        sent = {"User-Agent": AGENT, "Accept": "*/*", **headers, "Accept-Encoding": encoding}
        if self.token is not None and origin(url) in self._origins:
            sent["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        patience = {"timeout": httpx.Timeout(self.silence).as_dict()}
        return httpx.Request(method, url, headers=sent, json=content, extensions=patience)

    def _following(self, response: "httpx.Response") -> "httpx.URL | None":
        """Return where an answer redirects to; None if it does not.

        Raises:
            ServiceRefused: To nowhere that may be asked.
        """
        if response.status_code not in REDIRECTS:
            return None
        import httpx

        where = shown(response.url)
        try:
            following = response.url.join(response.headers.get("location", ""))
        except (httpx.InvalidURL, ValueError, TypeError):
            raise ServiceRefused(f"{where}: redirects to no web address") from None
        try:
            self.policy.check(following, before=response.url)
        except ServiceRefused as error:
            raise type(error)(f"{where}: redirects to {error}") from None
        return following


class Gate(_Gate):
    """Asks for answers, for threads, which may share one.

    Args:
        homes, token, reach, silence: As above.
        inner: What connects to an address by its number.
    """

    def __init__(
        self,
        homes: Collection[str],
        token: SecretStr | None = None,
        policy: AddressPolicy | None = None,
        *,
        silence: float,
        inner: "httpcore.NetworkBackend | None" = None,
    ) -> None:
        from diffgraph.fetching.connecting import Transport

        super().__init__(homes, token, policy, silence)
        self._transport = Transport(self.policy, inner)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    @contextmanager
    def answer(
        self,
        url: "httpx.URL",
        headers: Mapping[str, str],
        opening: float,
        until: float,
        redirects: int = MOST_REDIRECTS,
    ) -> "Iterator[httpx.Response]":
        """Yield the answer to GET at the end of all redirects; its body is still to be read.

        Args:
            url: Who is asked.
            headers: Further request headers.
            opening: The moment of `time.monotonic` at which its body must begin.
            until: The moment at which all must be over.
            redirects: As many are followed.

        Raises:
            TransientFailure: It did not come in time; it may come later. Also from the body.
            ServiceRefused: The address, a redirect or the encoding is not one for us.
        """
        from diffgraph.fetching.connecting import deadline

        with _told(url), deadline(opening) as limit:
            for _ in range(redirects + 1):
                request = self._request("GET", url, headers, "identity")
                response = self._transport.handle_request(request)
                response.request = request
                try:
                    following = self._following(response)
                    if following is None:
                        ContentDecoder(response.headers, "identity")
                        limit.moment = until
                        yield response
                        return
                finally:
                    response.close()
                url = following
        raise ServiceRefused(f"{shown(url)}: redirects more than {redirects} times")


class AsyncGate(_Gate):
    """Asks for answers, on one event loop.

    Args:
        homes, token, reach, silence, inner: As of `Gate`.
    """

    def __init__(
        self,
        homes: Collection[str],
        token: SecretStr | None = None,
        policy: AddressPolicy | None = None,
        *,
        silence: float,
        inner: "httpcore.AsyncNetworkBackend | None" = None,
    ) -> None:
        from diffgraph.fetching.connecting import AsyncTransport

        super().__init__(homes, token, policy, silence)
        self._transport = AsyncTransport(self.policy, inner)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    @asynccontextmanager
    async def answer(
        self,
        method: str,
        url: "httpx.URL",
        headers: Mapping[str, str],
        seconds: float,
        content: object = None,
    ) -> "AsyncIterator[httpx.Response]":
        """Yield the answer at the end of all redirects; its body is still to be read.

        Args:
            method: GET or POST.
            url: Who is asked.
            headers: Further request headers; it may answer in gzip.
            seconds: Until all must be over, the body too.
            content: Sent as JSON, if given.

        Raises:
            Failed, ServiceRefused: As of `Gate`.
        """
        import asyncio

        with _told(url, seconds):
            async with asyncio.timeout(seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    request = self._request(method, url, headers, "gzip", content)
                    response = await self._transport.handle_async_request(request)
                    response.request = request
                    try:
                        following = self._following(response)
                        if following is None:
                            yield response
                            return
                    finally:
                        await response.aclose()
                    if response.status_code not in {307, 308}:
                        method, content = "GET", None
                    url = following
        raise ServiceRefused(f"{shown(url)}: redirects more than {MOST_REDIRECTS} times")


async def plain_body(response: "httpx.Response", largest: int) -> "bytes | None":
    """Return the body of an answer that may be in gzip; None if it has more bytes than `largest`.

    Raises:
        TransientFailure: It is not what it says.
        UnexpectedEncoding: It is encoded in another way.
    """
    plain, body = ContentDecoder(response.headers, "gzip"), bytearray()
    came = pieces = 0
    async for data in response.aiter_raw():
        came += len(data)
        pieces += 1
        if pieces > MANY_PIECES + came // SMALL_PIECE:
            raise TransientFailure(f"it comes in pieces of less than {SMALL_PIECE} bytes")
        for piece in plain.pieces(data):
            body += piece
            if max(came, len(body)) > largest:
                return None
    plain.end()
    return bytes(body)


@contextmanager
def _told(url: "httpx.URL", seconds: float | None = None) -> Iterator[None]:
    """Turn what httpx raises into errors of ours, without its words: they may be a server's."""
    import httpx

    from diffgraph.fetching.connecting import DeadlineExceeded

    try:
        yield
    except (DeadlineExceeded, TimeoutError):
        limit = f" within {seconds:g} s" if seconds is not None else " in all the time it had"
        raise TransientFailure(f"no whole answer{limit}") from None
    except httpx.TimeoutException as error:
        raise TransientFailure(f"no answer in time ({kind_of(error)})") from None
    except httpx.TransportError as error:
        raise TransientFailure(f"the connection failed ({kind_of(error)})") from None
    except (httpx.InvalidURL, UnicodeError):
        raise ServiceRefused(f"{shown(url)}: not an address that can be asked") from None


def kind_of(error: Exception) -> str:
    """Return an error's kind in words: `ReadTimeout` → `read timeout`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
