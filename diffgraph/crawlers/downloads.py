"""How does a file come from a stranger's server, whole or not at all?

Streamed into a `.part` file that a later run goes on with, checked against the hash its page
states, and put in place in one step. The token goes to the hosts it was given for and to no other:
a hub redirects to a storage host, which has no business with it. Messages name an address without
its query, which may hold a signature.

https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
"""

import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, SecretStr

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.partial import PartialFile, sweep
from diffgraph.crawlers.web import TokenRefused
from diffgraph.errors import (
    DamagedFile,
    ExpertError,
    ServiceRefused,
    ServiceUnavailable,
    StorageError,
    UnusableListing,
    WrongHash,
)

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

AGENT = "diffgraph"
PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")
PAGE_TYPES = {"text/html", "application/xhtml+xml", "application/json", "application/problem+json"}
REDIRECTS = {301, 302, 303, 307, 308}
PASSING = {408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524}
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
PROGRESS = 1 << 20  # bytes; a try that brings fewer has brought nothing
SLOWEST = 1 << 10  # bytes a second; a server that sends less has stopped
DISK_STEP = 64 << 20  # bytes that are written before the disk is looked at again


class DownloadConfig(BaseModel, frozen=True):
    """How much may be fetched at once, how large, and how patiently."""

    at_once: int = Field(default=2, ge=1, description="files that are fetched at the same time")
    largest_bytes: int = Field(default=16 << 30, gt=0, description="a larger file is refused")
    spare_bytes: int = Field(default=512 << 20, ge=0, description="of the disk, never filled")
    tries: int = Field(default=5, ge=1, description="in a row that bring nothing new")
    first_wait: float = Field(default=1.0, gt=0, description="seconds; doubled after every try")
    longest_wait: float = Field(default=60.0, gt=0, description="seconds between two tries")
    timeout: float = Field(default=30.0, gt=0, description="seconds until the next byte")
    redirects: int = Field(default=8, ge=0)


class Downloader:
    """Fetches files over HTTP(S); threads may share one.

    Args:
        folder: Where unfinished files wait for the next run; on the disk of the targets.
        token: What the hub knows us by; sent as `Authorization: Bearer`.
        token_hosts: Origins the token is for: `https://civitai.com`. To any other it is not sent.
        config: How much, how large, how patiently.
        slot: Entered for as long as a file is fetched: a limit shared with other processes.
            By default `config.at_once` files at a time in this process.
    """

    def __init__(
        self,
        folder: Path,
        token: SecretStr | None = None,
        token_hosts: Collection[str] = (),
        config: DownloadConfig | None = None,
        slot: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        import httpx

        sweep(folder)
        self.folder = folder
        self.config = config or DownloadConfig()
        self._token = token
        self._token_hosts = {_origin(httpx.URL(host)) for host in token_hosts}
        limit = BoundedSemaphore(self.config.at_once)
        self._slot = slot or (lambda: limit)
        self._client = httpx.Client(
            timeout=self.config.timeout,
            follow_redirects=False,  # the token must not follow
            # as it is stored: a compressed answer cannot be resumed
            headers={"User-Agent": AGENT, "Accept": "*/*", "Accept-Encoding": "identity"},
        )

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; `with Downloader(…) as downloader` does."""
        self._client.close()

    def fetch(self, url: str, target: Path, *, sha256: str = "", size_bytes: int = 0) -> Path:
        """Bring a file to `target` and return it.

        Args:
            url: Where it is; `http` or `https`.
            target: What it is to be called here.
            sha256: What its page says; unchecked if empty.
            size_bytes: About how large its page says it is; 0 if it does not.

        Raises:
            UnusableListing: It is too large, or its address cannot be used.
            DamagedFile: It is not what its page says.
            ServiceUnavailable: The server failed; what has come is kept for the next try.
            ServiceRefused: The server says no, or answers with a web page (log in, not found).
            StorageError: The disk is full or cannot be written.
        """
        address = _address(url)
        self._refuse_size(size_bytes, _shown(address))
        # a query may hold a signature that is another every time
        key = sha256 or str(address.copy_with(query=None))
        with self._slot(), PartialFile.of(self.folder, key) as part:
            try:
                self._refuse_full_disk(max(0, size_bytes - part.size), _shown(address))
                self._bring(address, part, sha256)
            except ExpertError:
                part.clear()  # the rest would not make it any better
                raise
            return part.finish(target)

    def _bring(self, url: "httpx.URL", part: PartialFile, sha256: str) -> None:
        """Fetch until the part is whole and right."""
        if not sha256 and part.size and not part.validator:
            part.clear()  # nothing could tell whether the rest belongs to it
        was_resumed = part.size > 0
        while True:
            self._complete(url, part)
            found = sha256_of(part.path) if sha256 else ""
            if found == sha256:
                return
            part.clear()
            if not was_resumed:
                raise WrongHash.of(_shown(url), found, sha256)
            log.info("%s has changed since a part of it was fetched: again", _shown(url))
            was_resumed = False

    def _complete(self, url: "httpx.URL", part: PartialFile) -> None:
        """Try until all has come; a try that brings something does not count."""
        import httpx

        fruitless = 0
        while not part.is_whole:
            before = part.size
            try:
                self._try(url, part)
                continue
            except httpx.TransportError as error:
                failure = _Passing(f"{_shown(url)}: {_kind(error)}")
            except _Passing as error:
                failure = error
            fruitless = 0 if part.size - before >= PROGRESS else fruitless + 1
            wait = failure.wait or self._wait(fruitless)
            if fruitless >= self.config.tries or wait > self.config.longest_wait:
                asked = f"; it asks to wait {failure.wait:.0f} s" if failure.wait else ""
                raise ServiceUnavailable(f"{failure}{asked}") from failure
            log.info("%s; %d bytes are here, again in %.1f s", failure, part.size, wait)
            time.sleep(wait)

    def _try(self, url: "httpx.URL", part: PartialFile) -> None:
        """Send one request and keep what it brings."""
        with self._answer(url, part.request_headers()) as response:
            where = _shown(response.url)
            _refuse_status(response, where, bool(self._token))
            if response.status_code == 416:  # nothing lies beyond what we have
                self._judge_end(response, part, where)
                return
            self._begin(response, part, where)
            self._pour(response, part, where)
        if part.total is None:
            part.total = part.size  # the server did not say: it ended well, so this is all
        if part.size > part.total:
            raise DamagedFile(f"{where}: more came than the server had announced")
        if part.size < part.total:
            raise _Passing(f"{where}: {part.size} of {part.total} bytes came")
        if not part.size:
            raise DamagedFile(f"{where}: the file is empty")

    @contextmanager
    def _answer(self, url: "httpx.URL", headers: dict[str, str]) -> "Iterator[httpx.Response]":
        """Yield the answer at the end of all redirects; its body is still to be read."""
        import httpx

        for _ in range(self.config.redirects + 1):
            request = self._client.build_request("GET", url, headers=headers)
            if self._token is not None and _origin(url) in self._token_hosts:
                request.headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
            response = self._client.send(request, stream=True)
            try:
                if response.status_code not in REDIRECTS:
                    yield response
                    return
                location = response.headers.get("location", "")
            finally:
                response.close()
            try:
                following = _address(str(url.join(location)))
            except (httpx.InvalidURL, UnusableListing) as error:
                raise ServiceRefused(f"{_shown(url)}: redirects to no web address") from error
            if url.scheme == "https" and following.scheme != "https":
                raise ServiceRefused(f"{_shown(url)}: redirects to an address without TLS")
            url = following
        raise ServiceRefused(f"{_shown(url)}: redirects more than {self.config.redirects} times")

    def _begin(self, response: "httpx.Response", part: PartialFile, where: str) -> None:
        """Decide whether an answer goes on with the part or begins it anew."""
        encoded = response.headers.get("content-encoding", "identity") != "identity"
        validator = "" if encoded else _validator(response)
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdecimal() and len(length) < 19 and not encoded else None
        if response.status_code == 206:
            start, total = _range_of(response)
            same = not (validator and part.validator) or validator == part.validator
            if start != part.size or not same or (part.total or total) != total:
                part.clear()
                raise _Passing(f"{where}: another part came than the one asked for")
        else:
            part.clear()
        self._refuse_size(total or 0, where)
        self._refuse_full_disk((total or part.size) - part.size, where)
        part.begin(validator, total)

    def _pour(self, response: "httpx.Response", part: PartialFile, where: str) -> None:
        """Append an answer's body to the part."""
        since, before, looked = time.monotonic(), part.size, part.size
        for data in response.iter_bytes():
            part.append(data)
            if part.size - len(data) < len(PAGE_STARTS[0]):
                _refuse_page(part, where)
            self._refuse_size(part.size, where)
            if part.size - looked >= DISK_STEP:
                looked = part.size
                self._refuse_full_disk(0, where)
            if time.monotonic() - since >= self.config.timeout:
                if part.size - before < SLOWEST * self.config.timeout:
                    raise _Passing(f"{where}: sends less than {SLOWEST} bytes a second")
                since, before = time.monotonic(), part.size

    def _judge_end(self, response: "httpx.Response", part: PartialFile, where: str) -> None:
        stated = response.headers.get("content-range", "").rpartition("/")[2]
        if part.size and stated == str(part.size):
            part.total = part.size
            return
        part.clear()
        raise _Passing(f"{where}: has changed since a part of it was fetched")

    def _refuse_size(self, size: int, where: str) -> None:
        largest = self.config.largest_bytes
        if size > largest:
            raise UnusableListing(f"{where}: has {_mib(size)}, a file may have {_mib(largest)}")

    def _refuse_full_disk(self, needed: int, where: str) -> None:
        spare = self.config.spare_bytes
        room = shutil.disk_usage(self.folder).free - spare
        if room < 0:
            raise StorageError(f"{self.folder}: the disk is full but for the spare {_mib(spare)}")
        if needed > room:  # what a page claims must not end the run
            raise UnusableListing(f"{where}: needs {_mib(needed)}, the disk has {_mib(room)} left")

    def _wait(self, fruitless: int) -> float:
        """Return the seconds to wait after so many tries, spread so that clients do not meet."""
        longest = min(self.config.longest_wait, self.config.first_wait * 2.0 ** min(fruitless, 30))
        return random.uniform(longest / 2, longest)


class _Passing(Exception):
    """A failure that may pass."""

    def __init__(self, text: str, wait: float = 0.0) -> None:
        super().__init__(text)
        self.wait = wait  # seconds, as the server asked; 0 if it did not


def _refuse_status(response: "httpx.Response", where: str, has_token: bool) -> None:
    """Raise what a status means, unless a file follows."""
    status = response.status_code
    if status in PASSING:
        raise _Passing(f"{where}: answers {status}", _retry_after(response))
    if status == 401:
        said = "does not take the token: it may have expired" if has_token else "wants a token"
        raise TokenRefused(f"{where}: {said} (401)")
    if status == 403:
        raise ServiceRefused(f"{where}: not for us (403): early access, or a token is needed")
    if status not in {200, 206, 416}:
        raise ServiceRefused(f"{where}: answers {status}")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in PAGE_TYPES and status != 416:
        refusal = ServiceRefused if has_token else TokenRefused  # it may be a page to sign in
        raise refusal(f"{where}: answers with a page ({kind}) where a file should be")


def _refuse_page(part: PartialFile, where: str) -> None:
    if part.start().lstrip().lower().startswith(PAGE_STARTS):
        part.clear()
        raise ServiceRefused(f"{where}: answers with a web page where a file should be")


def _retry_after(response: "httpx.Response") -> float:
    """Return the seconds a server asks us to wait: a number, or until a date; 0 if it does not."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _validator(response: "httpx.Response") -> str:
    """Return what If-Range may be told: a strong entity tag, or else the date."""
    tag = str(response.headers.get("etag", "")).strip()
    if tag.startswith('"') and len(tag) < 300:
        return tag
    return str(response.headers.get("last-modified", "")).strip()[:100]


def _range_of(response: "httpx.Response") -> tuple[int, int | None]:
    """Return where a part begins, and how large the whole is."""
    match = CONTENT_RANGE.fullmatch(response.headers.get("content-range", "").strip())
    if match is None:
        return -1, None
    return int(match[1]), None if match[3] == "*" else int(match[3])


def _address(url: str) -> "httpx.URL":
    import httpx

    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise UnusableListing(f"not a web address: {url[:80]!r}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise UnusableListing(f"not a web address: {_shown(address)!r}")
    return address


def _origin(url: "httpx.URL") -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _shown(url: "httpx.URL") -> str:
    """Return an address without what may be secret in it."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host}{port}{url.path}"[:200]


def _kind(error: Exception) -> str:
    """Return an error's kind in words: `ReadTimeout` → `read timeout`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
