"""What must no person, log or file be told? Keys, tokens and passwords, however they are spelt.

`keep_secret` is called wherever a key comes in: settings, clients. `masked` lies on the way from an
error to a person: every error of ours masks its own text when it is made, so that a server which
repeats our token in a reason, an address or an error text does not get it printed or stored.
"""

import base64
import contextlib
import netrc
import os
import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

MASK = "***"
SHORTEST = 4  # characters; a shorter word is no secret, and would make texts unreadable
TELLING = 8  # characters at a secret's start that give it away: a text that was cut may end in them

_known: set[str] = set()

_NAMES = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|_PASS|PASSPHRASE|_PAT|AUTH_STRING)$", re.IGNORECASE
)
_HEADERS = re.compile(r"HEADERS?$", re.IGNORECASE)
_LONG_WORD = re.compile(r"(?=[^\s\"',:={}]*\d)[^\s\"',:={}]{16,}")
"""What a key looks like among other words, or instead of a user's name."""

_LOOKS_SECRET = (
    # https://name:password@host, with an @ in the password too
    (re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#]*@"), rf"\1{MASK}@"),
    (re.compile(r"(?i)(authorization\W+\w+\W+)[^\s'\",;]+"), rf"\1{MASK}"),
    (re.compile(r"(?i)(\bbearer\s+)[\w.~+/=-]{8,}"), rf"\1{MASK}"),
    (re.compile(r"\b(sk-ant-|hf_)[\w-]{8,}"), rf"\1{MASK}"),
    (
        re.compile(
            r"(?i)([?&;][\w.-]*(?:token|key|secret|signature|sig|passw(?:or)?d|credential|auth)"
            r"[\w.-]*=)[^\s&#;'\"<>]+"
        ),
        rf"\1{MASK}",
    ),
)


def keep_secret(value: SecretStr | str | None) -> None:
    """Have a key, a token or a password masked from now on, in this process."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value or ""
    if len(text) >= SHORTEST:
        _known.add(text)


def keep_password(address: str | None) -> None:
    """Have the password in an address masked from now on, wherever it stands alone.

    Where there is none, what looks like a key in the place of a user's name is one.
    """
    try:
        split = urlsplit(address or "")
        name = split.username or ""
        password = split.password or (name if _LONG_WORD.fullmatch(name) else "")
    except ValueError:
        return  # no address: it is refused where it is used
    keep_secret(password)
    keep_secret(unquote(password))


def keep_environment() -> None:
    """Have keys, tokens and passwords masked that other libraries take from variables or .netrc."""
    for name, value in os.environ.items():
        if "://" in value:
            keep_password(value)
        if _NAMES.search(name) and len(value) >= TELLING and not value.startswith("/"):
            keep_secret(value)
        if _HEADERS.search(name):
            for word in _LONG_WORD.findall(value):
                keep_secret(word)
    with contextlib.suppress(OSError, ValueError, netrc.NetrcParseError):  # it is not ours to judge
        for _, _, password in netrc.netrc(os.environ.get("NETRC")).hosts.values():
            keep_secret(password)


def masked(text: str) -> str:
    """Return a text without the secrets that are known, and without what looks like one."""
    known = _pattern(frozenset(_known))
    if known is not None:
        text = known.sub(MASK, text)
        for secret in _known:
            text = _without_beginning(text, secret)
    for looks, instead in _LOOKS_SECRET:
        text = looks.sub(instead, text)
    return text


def masked_body(body: bytes) -> bytes:
    """Return what a server sent without the secrets that are known: it may repeat our token."""
    known = _pattern(frozenset(_known))
    if known is None:
        return body
    # one byte a letter there and back: every spelling that is looked for is ASCII
    text = body.decode("latin-1")
    return known.sub(MASK, text).encode("latin-1") if known.search(text) else body


def forget_secrets() -> None:
    """Forget what `keep_secret` was told: a test leaves the process as it found it."""
    _known.clear()


def _without_beginning(text: str, secret: str) -> str:
    """Mask the first letters of a secret: what is left of it where a text was cut."""
    start, low = secret[:TELLING].lower(), text.lower()
    at = low.find(start) if len(secret) > TELLING and len(low) == len(text) else -1
    while at >= 0:
        end = at + TELLING
        while text[at : end + 1].lower() == secret[: end + 1 - at].lower() and end < len(text):
            end += 1
        text = text[:at] + MASK + text[end:]
        low = text.lower()
        at = low.find(start, at)
    return text


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> "re.Pattern[str] | None":
    """Return what finds the secrets in every spelling; None if there are none."""
    spelt = [spelling for secret in sorted(secrets) for spelling in _spellings(secret)]
    longest_first = sorted(spelt, key=len, reverse=True)
    return re.compile("|".join(longest_first)) if longest_first else None


def _spellings(secret: str) -> "list[str]":
    """Return patterns of a secret: letter by letter, and inside base64 at each of three places."""
    plain = "".join(map(_letter, secret))
    data = secret.encode(errors="surrogatepass")
    found = [plain, re.escape(data.hex())]
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        # letters at both ends also hold bits of what stands beside the secret
        first = (0, 2, 3)[before]
        last = len(whole) - (1 if (before + len(data)) % 3 else 0)
        inner = whole[first:last]
        if len(inner) >= SHORTEST:
            found.append("".join({"+": "[+-]", "/": "[/_]"}.get(c, c) for c in inner))
    return found


def _letter(letter: str) -> str:
    r"""Return a pattern of one letter: `a`, `A`, `%61`, `%2561`, `\u0061`, `&#97;`.

    Each alternative begins with a plain letter, by which `re` skips fast through megabytes.
    """
    if letter.isascii() and letter.isalpha():
        alternatives = [letter.lower(), letter.upper()]
    else:
        # beyond ASCII as text and as the bytes of UTF-8, read one letter a byte
        as_bytes = letter.encode(errors="surrogatepass").decode("latin-1")
        alternatives = list(dict.fromkeys((re.escape(letter), re.escape(as_bytes))))
    quoted = "".join(f"%(?:25)*{_hex(byte)}" for byte in letter.encode(errors="surrogatepass"))
    number = ord(letter)
    alternatives += [
        quoted,
        rf"\\(?:u{_hex(number, 4)}|x{_hex(number)})",
        rf"&#(?:[xX]0*{_hex(number)}|0*{number});",
    ]
    if letter in '/"\\':  # JSON escapes them
        alternatives.append(rf"\\{re.escape(letter)}")
    if letter in _NAMED:
        alternatives.append(_NAMED[letter])
    return f"(?:{'|'.join(alternatives)})"


_NAMED = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;", "+": "&plus;"}


def _hex(number: int, digits: int = 2) -> str:
    """Return a pattern of a hexadecimal number in small and capital letters."""
    return "".join(
        f"[{digit}{digit.upper()}]" if digit.isalpha() else digit
        for digit in f"{number:0{digits}x}"
    )
