"""Downloads a file from an untrusted server: whole or not at all.

Streamed into a `.part` file that a later run goes on with, checked against the hash its page
states, and put in place in one step. Only net progress counts: what a server takes back, or sends
again, is nothing, however busy it is; a server slower than the slowest rate loses the slot.
Messages name an address without its query, which may hold a signature.
"""

import logging
import random
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, SecretStr

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.file_answers import (
    PAGE_STARTS,
    begins_at,
    is_all_of,
    refuse_page,
    refuse_status,
)
from diffgraph.crawlers.partial import PartialFile, sweep
from diffgraph.errors import (
    DamagedFile,
    ExpertError,
    ServiceUnavailable,
    StorageError,
    UnusableListing,
    WrongHash,
)
from diffgraph.fetching.addresses import AddressRefused, shown
from diffgraph.fetching.gate import Gate
from diffgraph.fetching.waiting import TransientFailure
from diffgraph.secrets import masked

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

PROGRESS = 1 << 20  # bytes; a try that brings fewer has brought nothing
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
    opening: float = Field(default=60.0, gt=0, description="seconds until the first byte of a file")
    slowest: int = Field(
        default=16 << 10, gt=0, description="bytes a second; a server that sends less has stopped"
    )
    patience: float = Field(
        default=600.0, gt=0, description="seconds beyond what a file takes at the slowest rate"
    )
    longest: float = Field(
        default=6 * 3600.0, gt=0, description="seconds for one file; the next run goes on with it"
    )
    redirects: int = Field(default=8, ge=0)


class Downloader:
    """Fetches files over HTTP(S); threads may share one.

    Args:
        folder: Where unfinished files wait for the next run; on the disk of the targets.
        token: The hub's API token; sent as `Authorization: Bearer`.
        hubs: Addresses that the user named: `https://civitai.com`. The token is sent to them and to
            no other; all others have to be public.
        config: How much, how large, how patiently.
        slot: Entered for as long as a file is fetched: a limit shared with other processes.
            By default `config.at_once` files at a time in this process.
        gate: What requests pass; by default one for these hubs.
    """

    def __init__(
        self,
        folder: Path,
        token: SecretStr | None = None,
        hubs: Collection[str] = (),
        config: DownloadConfig | None = None,
        slot: Callable[[], AbstractContextManager[object]] | None = None,
        gate: Gate | None = None,
    ) -> None:
        sweep(folder)
        self.folder = folder
        self.config = config or DownloadConfig()
        limit = BoundedSemaphore(self.config.at_once)
        self._slot = slot or (lambda: limit)
        self._gate = gate or Gate(hubs, token, silence=self.config.timeout)

    def __enter__(self) -> "Downloader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; `with Downloader(…) as downloader` does."""
        self._gate.close()

    def fetch(self, url: str, target: Path, *, sha256: str = "", size_bytes: int = 0) -> Path:
        """Bring a file to `target` and return it.

        Args:
            url: Where it is; `http` or `https`.
            target: What it is to be called here.
            sha256: What its page says; unchecked if empty.
            size_bytes: About how large its page says it is; 0 if it does not.

        Raises:
            UnusableListing: It is too large, or its address is none that may be asked.
            DamagedFile: It is not what its page says.
            ServiceUnavailable: The server failed; what has come is kept for the next try.
            ServiceRefused: The server says no, or answers with a web page (log in, not found).
            StorageError: The disk is full or cannot be written.
        """
        address = self._address(url)
        self._refuse_size(size_bytes, shown(address))
        # a query may hold a signature that is another every time
        key = sha256 or str(address.copy_with(query=None))
        with self._slot(), PartialFile.of(self.folder, key) as part:
            try:
                self._refuse_full_disk(max(0, size_bytes - part.size), shown(address))
                self._bring(address, part, sha256)
            except ExpertError:
                part.clear()  # the rest would not make it any better
                raise
            return part.finish(target)

    def _address(self, url: str) -> "httpx.URL":
        """Return a page's address of a file."""
        import httpx

        try:
            address = httpx.URL(url)
            self._gate.policy.check(address)
        except (httpx.InvalidURL, TypeError, ValueError) as error:
            raise UnusableListing(f"not a web address: {masked(url)[:80]!r}") from error
        except AddressRefused as error:
            raise UnusableListing(str(error)) from None
        return address

    def _bring(self, url: "httpx.URL", part: PartialFile, sha256: str) -> None:
        """Fetch until the part is whole and right."""
        if not sha256 and part.size and not part.validator:
            part.clear()  # nothing could tell whether the rest belongs to it
        was_resumed = part.size > 0
        allowance = _Allowance(self.config, part)
        while True:
            self._complete(url, part, allowance)
            found = sha256_of(part.path) if sha256 else ""
            if found == sha256:
                return
            part.clear()
            if not was_resumed:
                raise WrongHash.of(shown(url), found, sha256)
            log.info("%s has changed since a part of it was fetched: again", shown(url))
            was_resumed = False

    def _complete(self, url: "httpx.URL", part: PartialFile, allowance: "_Allowance") -> None:
        """Try until all has come; a try after which more is here than ever does not count."""
        fruitless, most = 0, part.size
        while not part.is_whole:
            try:
                self._try(url, part, allowance)
                continue
            except TransientFailure as error:
                failure = error
            fruitless = 0 if part.size - most >= PROGRESS else fruitless + 1
            most = max(most, part.size)
            wait = failure.wait or self._wait(fruitless)
            if fruitless >= self.config.tries or wait > self.config.longest_wait:
                asked = f"; it asks to wait {failure.wait:.0f} s" if failure.wait else ""
                raise ServiceUnavailable(f"{failure}{asked}") from None
            if allowance.is_used_up(wait):
                raise ServiceUnavailable(f"{failure}; too little came in the time it had")
            log.info("%s; %d bytes are here, again in %.1f s", failure, part.size, wait)
            time.sleep(wait)

    def _try(self, url: "httpx.URL", part: PartialFile, allowance: "_Allowance") -> None:
        """Send one request and keep what it brings."""
        where, config = shown(url), self.config
        opening = time.monotonic() + config.opening
        headers = {"Accept": "*/*", **part.request_headers()}
        try:
            with self._gate.answer(
                url, headers, opening, allowance.end, config.redirects
            ) as response:
                where = shown(response.url)
                refuse_status(response, where, self._gate.token is not None)
                if response.status_code == 416:  # nothing lies beyond what we have
                    if not is_all_of(response, part):
                        part.clear()
                        raise TransientFailure("has changed since a part of it was fetched")
                    part.total = part.size
                    return
                self._begin(response, part, where)
                self._pour(response, part, where, allowance)
            if part.total is not None and part.size < part.total:
                raise TransientFailure(f"{part.size} of {part.total} bytes came")
        except TransientFailure as failure:
            raise TransientFailure(f"{where}: {failure}", failure.wait) from None
        if part.total is None:
            part.total = part.size  # the server did not say: it ended well, so this is all
        if part.size > part.total:
            raise DamagedFile(f"{where}: more came than the server had announced")
        if not part.size:
            raise DamagedFile(f"{where}: the file is empty")

    def _begin(self, response: "httpx.Response", part: PartialFile, where: str) -> None:
        """Decide whether an answer goes on with the part or begins it anew."""
        start, validator, total = begins_at(response, part)
        if not start:
            part.clear()
        self._refuse_size(total or 0, where)
        self._refuse_full_disk((total or part.size) - part.size, where)
        part.begin(validator, total)

    def _pour(
        self, response: "httpx.Response", part: PartialFile, where: str, allowance: "_Allowance"
    ) -> None:
        """Append an answer's body to the part."""
        since, before, looked = time.monotonic(), part.size, part.size
        for data in response.iter_raw():
            part.append(data)
            if part.size - len(data) < len(PAGE_STARTS[0]):
                refuse_page(part, where)
            self._refuse_size(part.size, where)
            if part.size - looked >= DISK_STEP:
                looked = part.size
                self._refuse_full_disk(0, where)
            if time.monotonic() - since >= self.config.timeout:
                slowest = self.config.slowest
                if part.size - before < slowest * self.config.timeout:
                    raise TransientFailure(f"sends less than {slowest} bytes a second")
                if allowance.is_used_up():
                    raise TransientFailure("sends too little of the file in all the time it had")
                since, before = time.monotonic(), part.size

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


class _Allowance:
    """The time that a file has: some patience, and what its net bytes take at the slowest rate."""

    def __init__(self, config: DownloadConfig, part: PartialFile) -> None:
        self._config, self._part = config, part
        self._start, self._before = time.monotonic(), part.size
        self.end = self._start + config.longest  # a moment of `time.monotonic`

    def is_used_up(self, more: float = 0.0) -> bool:
        """Return whether the time is over, or will be in so many more seconds."""
        size = self._part.size
        self._before = min(self._before, size)  # what was taken back has to come again
        needed = (size - self._before) / self._config.slowest
        moment = time.monotonic() + more
        return moment > min(self.end, self._start + self._config.patience + needed)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"
