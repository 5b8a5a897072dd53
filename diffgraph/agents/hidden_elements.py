"""Which elements of a page are invisible in a browser?

What a browser hides by an attribute, an inline style, a rule of a style sheet in the page, a class
that sites use for it, letters of no size, or letters in the colour of what is behind them.
"""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

MOST_RULES = 300
SMALLEST_FONT = 5.0  # pixels
LEAST_CONTRAST = 40  # of 3 * 255: less cannot be read
PAPER = (255, 255, 255)

_HIDING_CLASSES = frozenset(
    """hidden hide is-hidden d-none invisible sr-only visually-hidden visuallyhidden offscreen
    screen-reader-text screen-reader-only a11y-hidden display-none opacity-0
    text-transparent""".split()
)
_COMMENT = re.compile(r"/\*.*?\*/|<!--|-->|\\", re.S)
_ESCAPE = re.compile(r"\\([0-9a-fA-F]{1,6})\s?")
_RULE = re.compile(r"([^{}@;]{1,300})\{([^{}]{0,2000})\}")
_LENGTH = re.compile(r"(-?\d*\.?\d+)\s*(px|pt|em|rem|%|vh|vw|ex|ch|)")
_PIXELS = {"": 1.0, "px": 1.0, "pt": 1.33, "em": 16.0, "rem": 16.0, "%": 0.16, "ex": 8.0, "ch": 8.0}
_ALWAYS = re.compile(
    r"(?:^|;)(?:display:none|visibility:(?:hidden|collapse)|content-visibility:hidden"
    r"|opacity:(?:0*\.0\d*|0+(?:\.0*)?|[0-4]?%)(?:!|;|$)|clip(?:-path)?:|text-indent:-\d"
    r"|(?:max-)?(?:height|width):0*(?:\.0*)?[01]?(?:px|pt|em|rem|%|vh|vw)?(?:!|;|$)"
    r"|(?:left|right|top|bottom|margin(?:-left|-top)?|inset):-\d{3,}"
    r"|(?:transform:.*(?:scale[xy]?\(0*\.?0|translate[xy]?\(-\d{3,})|scale:0*\.?0)"
    r"|(?:-webkit-text-fill-)?color:transparent|filter:.*opacity\(0"
    r"|(?:line-height|zoom):0*(?:\.0*)?(?:px|em|%)?(?:!|;|$)|letter-spacing:-|z-index:-"
    r"|(?:left|right|top|bottom|margin(?:-left|-top)?|text-indent):\d{3,}(?:v[wh]|%|em)"
    r"|(?:mask(?:-image)?|mix-blend-mode):(?!none|normal)"
    # in a colour that we cannot reckon out
    r"|color:(?:var|color-mix|color|lab|lch|oklab|oklch|hwb)\()"
)

Colour = tuple[int, int, int]
Styles = dict[str, str]


class HiddenElements:
    """The elements of one page that its styles hide."""

    def __init__(self, page: LexborHTMLParser) -> None:
        self._of_sheets: dict[int, str] = {}
        for selector, declared in _rules(page):
            try:
                nodes = page.css(selector)
            except Exception:  # a selector that the parser does not know
                continue
            for node in nodes:
                self._of_sheets[node.mem_id] = f"{self._of_sheets.get(node.mem_id, '')};{declared}"

    def hides(self, node: LexborNode) -> bool:
        """Tell whether an element is hidden, with all that is in it."""
        attributes = node.attributes
        sheet = self._of_sheets.get(node.mem_id, "")
        if not attributes and not sheet:
            return False
        if "hidden" in attributes or (attributes.get("aria-hidden") or "").lower() == "true":
            return True
        classes = (attributes.get("class") or "").lower().split()
        # also those of frameworks that prefix them: tw-hidden, md:hidden
        names = {re.sub(r"^(?!is-|d-)[a-z]+[:-]+(?=hidden$)", "", one) for one in classes}
        if (
            not _HIDING_CLASSES.isdisjoint(names)
            or "inert" in attributes
            or "popover" in attributes
        ):
            return True
        style = f"{sheet};{_squeezed(attributes.get('style') or '')}"
        if _ALWAYS.search(style):
            return True
        declared = _declared(style)
        return _is_tiny(declared) or self._is_unreadable(node)

    def _is_unreadable(self, node: LexborNode) -> bool:
        """Tell whether letters have the colour of what is behind them."""
        colour = self._nearest(node, "color")
        if colour is None:
            return False
        behind = self._nearest(node, "background") or PAPER
        return sum(abs(a - b) for a, b in zip(colour, behind, strict=True)) < LEAST_CONTRAST

    def _nearest(self, node: LexborNode | None, what: str) -> Colour | None:
        while node is not None and node.is_element_node:
            if (found := self._own(node, what)) is not None:
                return found
            node = node.parent
        return None

    def _own(self, node: LexborNode, what: str) -> Colour | None:
        attributes = node.attributes
        style = self._of_sheets.get(node.mem_id, "") + ";" + (attributes.get("style") or "")
        declared = _declared(_squeezed(style))
        if what == "color":
            return _colour(declared.get("color") or attributes.get("color") or "")
        ground = declared.get("background-color") or declared.get("background") or ""
        return _colour(ground or attributes.get("bgcolor") or "")


def _rules(page: LexborHTMLParser) -> Iterator[tuple[str, str]]:
    """Yield selectors and declarations of the page's own style sheets, those of media as well."""
    count = 0
    for sheet in page.css("style"):
        text = re.sub(r"/\*.*?\*/|<!--|-->", "", sheet.text() or "", flags=re.S)
        for found in _RULE.finditer(text):
            count += 1
            if count > MOST_RULES:
                return
            yield found.group(1).strip(), _squeezed(found.group(2))


def _squeezed(style: str) -> str:
    """Return declarations in lower case, without escapes, comments and loose blanks."""
    style = _ESCAPE.sub(lambda found: chr(int(found[1], 16) % 0x110000), style)
    return re.sub(r"\s*([:;,(!])\s*", r"\1", _COMMENT.sub("", style.lower())).strip()


def _declared(style: str) -> Styles:
    pairs = (part.partition(":") for part in style.split(";"))
    return {name.strip(): value.partition("!")[0].strip() for name, _, value in pairs if value}


def _is_tiny(declared: Styles) -> bool:
    size = declared.get("font-size", "")
    if not size and "font" in declared:
        size = declared["font"]
    found = _LENGTH.search(size)
    return bool(found) and float(found[1]) * _PIXELS.get(found[2], 16.0) < SMALLEST_FONT  # type: ignore[index]


def _colour(text: str) -> Colour | None:
    """Return a colour that CSS names; None for what is none."""
    from PIL import ImageColor

    found = re.search(r"#[0-9a-f]{3,8}\b|(?:rgb|hsl)a?\([^()]*\)|^[a-z]+|\b[a-z]+$", text.lower())
    if found is None:
        return None
    name = found.group()
    parts = re.findall(r"\d*\.?\d+%?", name) if "(" in name else []
    shines = _share(parts[3]) if len(parts) > 3 else 1.0
    if len(name) in {5, 9} and name[0] == "#":  # its last digits say how much shines through
        name, last = name[: -(len(name) // 4)], name[-(len(name) // 4) :]
        shines = int(last, 16) / (16 ** len(last) - 1)
    if parts:
        name = f"{name[:3]}({','.join(parts[:3])})"
    try:
        red, green, blue = ImageColor.getrgb(name)[:3]
    except ValueError:
        return None
    return _on_paper(red, shines), _on_paper(green, shines), _on_paper(blue, shines)


def _share(number: str) -> float:
    return float(number.rstrip("%")) / (100 if number.endswith("%") else 1)


def _on_paper(part: int, shines: float) -> int:
    return round(255 - (255 - part) * min(shines, 1.0))
