"""The visible text of an expert's page: without markup and hidden elements.

A page is untrusted HTML. It is read with the parser of a browser's kind (lexbor, through
selectolax), never rendered, and only text comes out: no tags, no comments, nothing that a style
hides, no control, zero-width or right-to-left-override characters.
"""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from diffgraph.agents.hidden_elements import HiddenElements
from diffgraph.agents.words import plain

LONGEST_PAGE = 100_000  # characters of markup that are looked at
LONGEST_TEXT = 20_000  # characters of text that are kept of it

_UNSEEN = frozenset(
    """script style template noscript iframe object embed svg math canvas head title select
    textarea form button video audio dialog""".split()
)
_BLOCKS = frozenset(
    """address article aside blockquote br dd div dl dt figcaption footer h1 h2 h3 h4 h5 h6 header
    hr li main nav ol p pre section table td th tr ul""".split()
)


def page_lines(html: str) -> tuple[str, ...]:
    """Return the visible text of a page, a line a block, without markup or control characters."""
    return tuple(line for line, _ in lines_and_links(html))


def lines_and_links(html: str) -> Iterator[tuple[str, bool]]:
    """Yield each visible line, and whether all of it is the text of links."""
    parts = "".join(_parts(html[:LONGEST_PAGE]))
    for line in parts[: 2 * LONGEST_TEXT].split("\n"):
        text = plain(line.replace(_LINK, "").replace(_END, ""))
        if text:
            yield text, not plain(_LINKED.sub("", line)).strip(" .,;:|•-")


# Marks in the text where a link begins and ends: noncharacters, removed from the page before.
_LINK, _END = "\ufdd0", "\ufdd1"
_LINKED = re.compile(f"{_LINK}[^{_END}\n]*{_END}?")
_MARKS = re.compile(f"[{_LINK}{_END}\ud800-\udfff]")


def _parts(html: str) -> Iterator[str]:
    """Yield the visible pieces of text in order, and a line break where a block begins or ends."""
    length = 0
    # a document cannot hold lone surrogates, and the marks are ours
    page = LexborHTMLParser(_MARKS.sub(" ", html))
    hidden, body = HiddenElements(page), page.body
    left: list[LexborNode | str | None] = [body]
    while left and length < LONGEST_TEXT:
        item = left.pop()
        if item is None:
            continue
        if isinstance(item, str):
            yield item
            continue
        if item is not body:
            left.append(item.next)
        if item.is_text_node:
            text = item.text_content or ""
            yield text
            length += len(text)
        elif item.is_element_node:
            is_block = item.tag in _BLOCKS
            yield "\n" if is_block else _LINK if item.tag == "a" else ""
            left.append("\n" if is_block else _END if item.tag == "a" else "")
            if item.tag not in _UNSEEN and not hidden.hides(item):
                left.append(item.child)
