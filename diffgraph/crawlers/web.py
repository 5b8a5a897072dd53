"""How do we ask a hub's server: politely, patiently, and without giving secrets away?

Requests keep a distance; what fails and may pass is tried again with growing, random waits, or
when the server says. Answers have a largest size, a largest number of values and a longest time.
What a server repeats of our token is masked in every message.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import responses
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr

from diffgraph.errors import InputError, ServiceRefused, ServiceUnavailable
from diffgraph.fetching.encodings import UnexpectedEncoding
from diffgraph.fetching.gate import AsyncGate, plain_body
from diffgraph.fetching.waiting import PASSING, TransientFailure, wait_of_failure, wait_of_limit
from diffgraph.foreign_files import parse_json
from diffgraph.secrets import masked_body

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

WORTH_TELLING = 4.0  # seconds of waiting

ANONYMOUS_PER_MINUTE = 60.0
SIGNED_IN_PER_MINUTE = 120.0
MOST_VALUES = 800_000  # in an answer; each takes up to 200 bytes once it is read
ACCEPT = {"Accept": "application/json, text/*;q=0.5"}

Turn = Callable[[], Awaitable[None]]
"""Awaited before every request: it returns when it is our turn."""
Answer = TypeVar("Answer")
Query = Mapping[str, str | int | list[str]]


class NotFound(ServiceRefused):
    """There is no such page: 404 or 410."""


class TokenRefused(ServiceRefused):
    """The server asks for a token, or refuses ours: 401."""


class BadAnswer(ServiceUnavailable):
    """The answer is too large, or not what it should be."""


class WebConfig(BaseModel, frozen=True):
    """How politely and how patiently servers are asked."""

    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        description="at most; unset: 60 anonymously, 120 with a token, no limit on this machine",
    )
    page_size: int = Field(default=100, ge=1, le=100, description="experts a request")
    passes: int = Field(
        default=3, ge=1, description="over a hub at most; it ends with one that finds nothing new"
    )
    tries: int = Field(default=6, ge=1, description="of one request")
    first_wait: float = Field(default=1.0, ge=0, description="seconds; doubled after every try")
    longest_wait: float = Field(default=30.0, ge=0, description="seconds between two tries")
    longest_retry_after: float = Field(
        default=300.0, ge=0, description="seconds we wait when a server names a time"
    )
    silence: float = Field(default=30.0, gt=0, description="seconds until the next byte")
    longest_answer: float = Field(default=120.0, gt=0, description="seconds until the last byte")
    largest_answer: int = Field(default=16 << 20, gt=0, description="bytes, inflated")


def address_of(url: str, variable: str) -> str:
    """Return a hub's address without what may be secret in it.

    Raises:
        InputError: It is no http(s) address, or it holds a password.
    """
    try:
        split = urlsplit(url.strip())
        port = split.port
    except ValueError as error:
        raise InputError(f"--url or {variable}: {error}") from None
    if split.scheme not in {"http", "https"} or not split.hostname:
        raise InputError(f"--url or {variable} is no address of the form https://host[:port]")
    if split.username or split.password:
        raise InputError(f"--url or {variable} holds a name or password: use a token instead")
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{split.scheme}://{host}{f':{port}' if port else ''}{split.path.rstrip('/')}"


def decoded(body: bytes, what: str) -> object:
    """Return what a JSON text says; raises `BadAnswer` naming `what` if it is none."""
    try:
        return cast(object, parse_json(body, MOST_VALUES))
    except ValueError as error:
        why = " ".join(str(error).split())[:120]
        raise BadAnswer(f"{what} is not JSON: {why}") from None


def per_minute(url: str, is_signed_in: bool, config: WebConfig) -> float | None:
    """Return how many requests a minute are polite; None for no limit."""
    if config.requests_per_minute is not None:
        return config.requests_per_minute
    host = urlsplit(url).hostname or ""
    if host == "localhost" or _is_loopback(host):
        return None
    return SIGNED_IN_PER_MINUTE if is_signed_in else ANONYMOUS_PER_MINUTE


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class RateLimiter:
    """Lets requests begin at even distances, at most `rate` a minute.

    Args:
        rate: Requests a minute; None for no limit.
    """

    def __init__(self, rate: float | None) -> None:
        self._distance = 60.0 / rate if rate else 0.0
        self._next = 0.0

    async def __call__(self) -> None:
        """Wait for our turn."""
        if self._distance:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._distance
            await asyncio.sleep(start - now)


@dataclass(frozen=True)
class Reply:
    """A good answer."""

    body: bytes
    next_link: str | None = None  # what its `Link` header calls the next page; never followed


class Web:
    """Asks one server, for use on one event loop.

    Args:
        url: Its address.
        token: Sent as `Authorization: Bearer` to this origin only.
        config: How politely and patiently.
        turn: Awaited before every request; by default a `RateLimiter` of our own.
        gate: What requests pass; by default one for this address.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr | None = None,
        config: WebConfig | None = None,
        turn: Turn | None = None,
        gate: AsyncGate | None = None,
    ) -> None:
        self.url = url
        self.config = config or WebConfig()
        self._gate = gate or AsyncGate([url], token, silence=self.config.silence)
        self._turn = turn or RateLimiter(per_minute(url, token is not None, self.config))
        self._not_before = 0.0  # the moment at which a limit that is used up is lifted

    async def close(self) -> None:
        """Close the connections."""
        await self._gate.close()

    @property
    def token(self) -> SecretStr | None:
        """The API token."""
        return self._gate.token

    @property
    def has_token(self) -> bool:
        """Whether requests are signed."""
        return self.token is not None

    def forget_token(self) -> None:
        """Ask anonymously from now on."""
        self._gate.token = None

    async def get(self, path: str, query: Query | None = None) -> bytes:
        """Return the body of a good answer to GET; see `ask`."""
        return (await self.ask("GET", path, query=query)).body

    async def ask(
        self, method: str, path: str, *, query: Query | None = None, content: object = None
    ) -> Reply:
        """Return a good answer.

        Args:
            method: GET or POST.
            path: Below the server's address, with its slash.
            query: What goes behind the question mark.
            content: Sent as JSON, if given.

        Raises:
            ServiceUnavailable: It failed as often as we try.
            NotFound: There is no such thing.
            TokenRefused: It asks for another token.
            ServiceRefused: It says no, or sends us where we do not go.
            BadAnswer: The answer is too large, or encoded in a way that was not asked for.
        """
        wait = self.config.first_wait
        for left in reversed(range(self.config.tries)):
            await self._turn()
            await self._limit_is_lifted(path)
            try:
                return await self._ask_once(method, path, query, content)
            except TransientFailure as failed:
                if not left or failed.wait > self.config.longest_retry_after:
                    raise self._failure(path, failed) from None
                pause = failed.wait or min(wait, self.config.longest_wait)
                wait *= 2
                self._tell_wait(path, str(failed), pause)
                await asyncio.sleep(pause * random.uniform(1.0, 1.5))
        raise AssertionError("the last try either returns or raises")

    async def _limit_is_lifted(self, path: str) -> None:
        """Wait until the server takes requests again, if it said that its limit is used up."""
        pause = self._not_before - time.monotonic()
        if pause > 0:
            self._tell_wait(path, "its limit of requests is used up", pause)
            await asyncio.sleep(pause)

    def _tell_wait(self, path: str, why: str, pause: float) -> None:
        # a wait of seconds is shown with its reason
        level = logging.WARNING if pause >= WORTH_TELLING else logging.DEBUG
        log.log(level, "%s%s: %s; again in %.0f s", self.url, path, why, pause)

    def _failure(self, path: str, failed: TransientFailure) -> ServiceUnavailable:
        later = f"; it asks to wait {failed.wait:.0f} s" if failed.wait else ""
        return ServiceUnavailable(
            f"{self.url}{path}: {failed}, after {self.config.tries} tries{later}"
        )

    async def _ask_once(
        self, method: str, path: str, query: Query | None, content: object
    ) -> Reply:
        import httpx

        seconds = self.config.longest_answer
        try:
            url = httpx.URL(self.url + path)
            url = url.copy_with(params=dict(query)) if query else url
        except httpx.InvalidURL:
            raise ServiceRefused(f"{self.url}{path}: not an address that can be asked") from None
        async with self._gate.answer(method, url, ACCEPT, seconds, content) as reply:
            self._check(reply, path)
            self._note_limit(reply)
            try:
                body = await plain_body(reply, self.config.largest_answer)
            except UnexpectedEncoding as error:
                raise BadAnswer(f"{self.url}{path}: {error}") from None
            if body is None:
                raise BadAnswer(
                    f"{self.url}{path}: the answer has more than "
                    f"{self.config.largest_answer >> 20} MiB"
                )
            return Reply(masked_body(body), reply.links.get("next", {}).get("url"))

    def _note_limit(self, reply: "httpx.Response") -> None:
        """Keep until when a good answer says that there is no other; not for ever."""
        wait = wait_of_limit(reply.headers)
        if wait <= self.config.longest_retry_after:
            self._not_before = max(self._not_before, time.monotonic() + wait)

    def _check(self, reply: "httpx.Response", path: str) -> None:
        """Raise what a bad status means, in our words: the server's could hold anything."""
        status = reply.status_code
        if status < 300:
            return
        said = f"{status} {responses.get(status, '')}".strip()
        if status in PASSING:
            raise TransientFailure(f"it answers {said}", wait_of_failure(reply.headers))
        where = f"{self.url}{path}: it answers {said}"
        if status in {404, 410}:
            raise NotFound(where)
        if status == 401:
            raise TokenRefused(
                f"{where}: the token is wrong or has expired" if self.has_token else where
            )
        raise ServiceRefused(where)


class Background:
    """An event loop on a thread of its own, so that a page is fetched while another is read."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="web", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Answer]) -> "Future[Answer]":
        """Begin; the future has what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Do, and return what it returns."""
        return self.start(work).result()

    def close(self) -> None:
        """Drop what is still going on, and end the thread."""
        if self._thread.is_alive():
            self.wait(_cancel_others())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
