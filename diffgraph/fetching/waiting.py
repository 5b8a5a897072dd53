"""How long does a server ask us to wait? In any of the ways that servers say it.

    Retry-After: 120                                   https://www.rfc-editor.org/rfc/rfc9110
    RateLimit: "api";r=0;t=55                          Hugging Face; draft 8 and later
    RateLimit-Policy: "fixed window";"api";q=500;w=300
    RateLimit: limit=100, remaining=0, reset=50        draft 7
    RateLimit-Remaining: 0, RateLimit-Reset: 50        drafts before, and X-RateLimit-…

https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers
"""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from diffgraph.errors import ServiceUnavailable

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
"""What a server answers that may do better the next time."""
NUMBER = re.compile(r"\d{1,15}(?:\.\d{0,6})?", re.ASCII)
NAME = re.compile(r'"((?:[^"\\]|\\.)*)"|([\w*.-]+)')
PARAMETER = re.compile(r'([a-z]+)\s*=\s*"?([^;,\s"]+)', re.IGNORECASE)
ITEM = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^",])+')
EPOCH = 1e9  # a reset beyond this is a moment, not a number of seconds
SPELLINGS = ("ratelimit", "x-ratelimit", "x-rate-limit")


class TransientFailure(ServiceUnavailable):
    """A try that failed in a way that may pass.

    Args:
        why: What happened.
        wait: Seconds until the next try, as the server asked; 0 if it did not.
    """

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


def wait_of_failure(headers: Mapping[str, str]) -> float:
    """Return the seconds that a failed answer asks us to wait; 0 if it does not."""
    return retry_after(headers.get("retry-after", "")) or wait_of_limit(headers)


def retry_after(value: str) -> float:
    """Return what `Retry-After` says: seconds, or until a date; 0 if nothing we understand."""
    text = value.strip()
    if NUMBER.fullmatch(text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def wait_of_limit(headers: Mapping[str, str]) -> float:
    """Return the seconds until a limit that is used up is lifted; 0 if none is used up."""
    waits = [_lifted(headers, item) for item in _items(headers.get("ratelimit", ""))]
    whole = _parameters(headers.get("ratelimit", ""))
    if _number(whole.get("remaining")) == 0:
        waits.append(_number(whole.get("reset")) or 0.0)
    for spelling in SPELLINGS:
        if _number(headers.get(f"{spelling}-remaining")) == 0:
            after = _number(headers.get(f"{spelling}-reset-after"))
            reset = _from_now(_number(headers.get(f"{spelling}-reset")) or 0.0)
            waits.append(reset if after is None else after)
    return max(waits, default=0.0)


def _lifted(headers: Mapping[str, str], item: str) -> float:
    """Return when an item of `RateLimit` is lifted: it says so, or its policy's window does."""
    said = _parameters(item)
    if _number(said.get("r")) != 0:
        return 0.0
    until = _number(said.get("t"))
    if until is not None:
        return until
    windows = [
        _number(_parameters(policy).get("w")) or 0.0
        for policy in _items(headers.get("ratelimit-policy", ""))
        if _names(policy) & _names(item) or not _names(item)
    ]
    return max(windows, default=0.0)


def _items(value: str) -> list[str]:
    return [found.group() for found in ITEM.finditer(value[:2_000])]


def _parameters(item: str) -> dict[str, str]:
    return {name.lower(): value for name, value in PARAMETER.findall(item[:2_000])}


def _names(item: str) -> set[str]:
    """Return what stands before the parameters of an item."""
    parts = [part.strip() for part in item.split(";")]
    return {part.strip('"').lower() for part in parts if part and "=" not in part}


def _number(text: str | None) -> float | None:
    text = (text or "").partition(",")[0].strip()
    return float(text) if NUMBER.fullmatch(text) else None


def _from_now(reset: float) -> float:
    reset = reset / 1000 if reset >= 1000 * EPOCH else reset  # some count milliseconds
    return max(0.0, reset - time.time()) if reset >= EPOCH else reset
