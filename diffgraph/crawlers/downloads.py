"""How does a file come from a stranger's server, whole or not at all?

Streamed into a `.part` file that a later run goes on with, checked against the hash its page
states, and put in place in one step. The token goes to the hosts it was given for and to no other:
a hub redirects to a storage host, which has no business with it. Messages name an address without
its query, which may hold a signature.

https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
"""

import hashlib
import json
import logging
import random
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock
from pydantic import BaseModel, Field, SecretStr, ValidationError

from diffgraph.artifacts import storing, write_text
from diffgraph.errors import (
    DamagedFile,
    ServiceRefused,
    ServiceUnavailable,
    StorageError,
    UnusableListing,
)

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

AGENT = "diffgraph"
PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")
PAGE_TYPES = ("text/html", "application/xhtml+xml", "application/json", "application/problem+json")
REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
STALE_SECONDS = 14 * 24 * 3600.0


class DownloadConfig(BaseModel, frozen=True):
    """How much may be fetched at once, how large, and how patiently."""

    at_once: int = Field(default=2, ge=1, description="files that are fetched at the same time")
    largest_bytes: int = Field(default=16 << 30, gt=0, description="a larger file is refused")
    spare_bytes: int = Field(default=1 << 30, ge=0, description="of the disk, never filled")
    tries: int = Field(default=5, ge=1, description="in a row that bring nothing new")
    first_wait: float = Field(default=1.0, gt=0, description="seconds; doubled after every try")
    longest_wait: float = Field(default=60.0, gt=0, description="seconds, Retry-After included")
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
        raise NotImplementedError

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
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections; `with Downloader(…) as downloader` does."""
        raise NotImplementedError
