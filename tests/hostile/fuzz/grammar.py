"""Which inputs does a stranger write? Valid ones that are changed in a few places, for most."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp.exe",
    "\ud800",
    "\U000e0041\U000e0042",
    "\u3164\u00ad\u2028",
    "../../../../etc/passwd",
    "/dev/zero",
    "file:///etc/passwd",
    "https://user:secret@example.com/x",
    "http://169.254.169.254/latest/meta-data/",
    "<script>alert(1)</script>",
    "'; DROP TABLE experts; --",
    "{{7*7}}${7*7}%s%n",
    "NaN",
    "Infinity",
    "1e999",
    "-0",
    "null",
    "aaaa\naaaa\r\nbbbb",
    "a" * 5_000,
    "(" * 3_000,
    "<" * 3_000,
    "[a:" * 1_000,
    " no" * 1_000,
    "a, " * 2_000,
    "é" * 3_000,
    "🦊" * 1_000,
)
NUMBERS = (0, 1, -1, 2, 7, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**40)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e38, 1e308, float("nan"), float("inf"), float("-inf"))

texts = st.one_of(
    st.sampled_from(HOSTILE_TEXTS),
    st.text(max_size=40),
    st.text(alphabet="ab(),:<>[]{}.-_ 0123456789|+\\\"'\n", max_size=120),
)
"""Texts of any kind, lone surrogates among them."""

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(FLOATS), texts
)
values = st.one_of(
    scalars,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
        max_leaves=8,
    ),
    st.sampled_from([10, 200, 900, 5_000]).map(lambda depth: Deep(depth)),
    st.sampled_from([50, 3_000]).map(lambda count: [0] * count),
    st.sampled_from([50, 3_000]).map(lambda count: {f"k{place}": place for place in range(count)}),
)
"""What may stand in the place of a value."""


class Deep:
    """A value that is nested deeper than Python's own writer of JSON goes."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __repr__(self) -> str:
        return f"Deep({self.depth})"

    def __deepcopy__(self, memo: object) -> "Deep":
        return self


def to_json(value: Any) -> bytes:
    """Return a document as JSON, however deep; NaN and lone surrogates as Python writes them."""
    found: list[Deep] = []

    def mark(deep: Any) -> str:
        if not isinstance(deep, Deep):
            raise TypeError(type(deep).__name__)
        found.append(deep)
        return f"<deep {len(found) - 1}>"

    text = json.dumps(value, default=mark)
    for place, deep in enumerate(found):
        text = text.replace(f'"<deep {place}>"', "[" * deep.depth + "]" * deep.depth)
    return text.encode()


@st.composite
def changed(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """Return a copy of a document of JSON's types with up to `most` places changed."""
    copy = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(0, most))):
        places = list(_places(copy))
        if not places:
            return draw(values)
        holder, key = draw(st.sampled_from(places))
        _change(draw, holder, key)
    return copy


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place of a document: what holds it, and its key there."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)


def _change(draw: st.DrawFn, holder: Any, key: Any) -> None:
    how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add", "repeat", "wrap"]))
    if how == "remove":
        del holder[key]
    elif how == "wrap":
        holder[key] = draw(st.sampled_from([[holder[key]], {"value": holder[key]}]))
    elif how == "add":
        _add(holder, draw(texts), draw(values))
    elif how == "rename" and isinstance(holder, dict):
        holder[draw(texts)] = holder.pop(key)
    elif how == "repeat" and isinstance(holder, list):
        holder.extend([holder[key]] * draw(st.sampled_from([1, 2, 300])))
    else:
        holder[key] = draw(values)


def _add(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[name] = value
    else:
        holder.append(value)


@st.composite
def mangled(draw: st.DrawFn, data: bytes, most: int = 3) -> bytes:
    """Return bytes with up to `most` places cut, flipped, filled, repeated or swapped."""
    found = bytearray(data)
    for _ in range(draw(st.integers(0, most))):
        start = draw(st.integers(0, len(found)))
        stop = min(len(found), start + draw(st.sampled_from([1, 2, 8, 64, 4096])))
        how = draw(st.sampled_from(["cut", "flip", "zero", "ones", "insert", "repeat", "drop"]))
        if how == "cut":
            del found[start:]
        elif how == "drop":
            del found[start:stop]
        elif how == "flip" and start < len(found):
            found[start] ^= 1 << draw(st.integers(0, 7))
        elif how in {"zero", "ones"}:
            found[start:stop] = (b"\0" if how == "zero" else b"\xff") * (stop - start)
        elif how == "repeat":
            found[start:start] = found[start:stop]
        elif how == "insert":
            found[start:start] = draw(st.binary(max_size=32))
    return bytes(found)
