"""Is what a server answers the file, the rest of it, or something else?

https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
"""

import re
from typing import TYPE_CHECKING

from diffgraph.crawlers.partial import PartialFile
from diffgraph.crawlers.web import TokenRefused
from diffgraph.errors import ServiceRefused
from diffgraph.fetching.waiting import PASSING, TransientFailure, wait_of_failure

if TYPE_CHECKING:
    import httpx

PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml")
PAGE_TYPES = {"text/html", "application/xhtml+xml", "application/json", "application/problem+json"}
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


def refuse_status(response: "httpx.Response", where: str, has_token: bool) -> None:
    """Raise what a status means, unless a file follows.

    Raises:
        TransientFailure: It may pass.
        TokenRefused, ServiceRefused: It will not.
    """
    status = response.status_code
    if status in PASSING:
        raise TransientFailure(f"answers {status}", wait_of_failure(response.headers))
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


def refuse_page(part: PartialFile, where: str) -> None:
    """Raise for a file that begins as a web page does."""
    if part.start().lstrip().lower().startswith(PAGE_STARTS):
        part.clear()
        raise ServiceRefused(f"{where}: answers with a web page where a file should be")


def begins_at(response: "httpx.Response", part: PartialFile) -> tuple[int, str, int | None]:
    """Return where in the file an answer's body begins, the file's validator, and its size.

    Raises:
        TransientFailure: It is not the rest of what is here.
    """
    validator = _validator(response)
    length = response.headers.get("content-length", "")
    total = int(length) if length.isdecimal() and len(length) < 19 else None
    if response.status_code != 206:
        return 0, validator, total
    start, total = _range_of(response)
    same = not (validator and part.validator) or validator == part.validator
    if start != part.size or not same or (part.total or total) != total:
        part.clear()
        raise TransientFailure("another part came than the one asked for")
    return start, validator, total


def is_all_of(response: "httpx.Response", part: PartialFile) -> bool:
    """Return whether an answer that nothing lies beyond (416) says that all is here."""
    stated: str = response.headers.get("content-range", "").rpartition("/")[2]
    return part.total in (None, part.size) and part.size > 0 and stated == str(part.size)


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
