r"""How much does each part of a prompt weigh?

`(word)` weighs 1.1 times as much, `[word]` 1.1 times less, `(word:1.3)` 1.3 times; brackets
multiply, `\(` is a bracket to be drawn, and `BREAK` begins a new chunk of what the text encoder
reads at once. So AUTOMATIC1111's web UI reads it; what a weight does is `conditioning`'s.
"""

import math
import re
from dataclasses import dataclass, field

STEP = 1.1  # what one bracket weighs
LARGEST = 10.0
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.I)

_MARK = re.compile(
    r"\\(?P<escaped>[()\[\]\\])|(?P<open>[(\[])"
    r"|(?::\s*(?P<weight>[^\s()\[\]:\\]{1,40})\s*)?(?P<close>[)\]])"
)
_BREAK = re.compile(r"\bBREAK\b")
_OPENING = {")": "(", "]": "["}
_UNBOUNDED = 1e6  # of nested brackets: ten thousand of them are no infinity


@dataclass(frozen=True)
class Fragment:
    """A part of a prompt, and how much of it is wanted: 1 as usual, 0 not at all."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class WeightedText:
    """A prompt's text without brackets."""

    chunks: tuple[tuple[Fragment, ...], ...]
    """What `BREAK` parts; each in its order, without empty fragments. At least one."""
    unsupported: tuple[str, ...]
    """Which weights and brackets are not read as they are written, and how they are."""

    @property
    def is_plain(self) -> bool:
        """Whether it is one chunk, all of it of the usual weight."""
        return len(self.chunks) == 1 and all(part.weight == 1 for part in self.chunks[0])


def weighted(text: str) -> WeightedText:
    """Return what each part of a text weighs, in linear time; never fails.

    Args:
        text: as `WrittenPrompt.text` has it.
    """
    marks = _Marks(text)
    chunks: list[list[tuple[float, list[str]]]] = [[]]
    inside = {"(": [1.0], "[": [1.0]}
    for place, piece in enumerate(marks.pieces):
        if place in marks.factors:
            product = inside[piece][-1] * marks.factors[place]
            inside[piece].append(min(max(product, -_UNBOUNDED), _UNBOUNDED))
        elif place in marks.closing:
            inside[_OPENING[piece]].pop()
        else:
            asked = inside["("][-1] * inside["["][-1]
            weight = min(max(asked, 0.0), LARGEST)
            if weight != asked and piece.strip():
                marks.said[f"weights are held between 0 and {LARGEST:g}"] = None
            _append(chunks, piece, weight)
    parts = (tuple(Fragment("".join(texts), weight) for weight, texts in one) for one in chunks)
    return WeightedText(tuple(parts), tuple(marks.said))


def without_weights(text: str) -> str:
    """Return a text without weights, as compel has it read where weights cannot be applied."""
    parts = [part.text for chunk in weighted(text).chunks for part in chunk]
    return " ".join(parts)


def number_of(text: str) -> float | None:
    """Return the finite number that a text is, if it is one."""
    if not NUMBER.fullmatch(text.strip()):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


@dataclass
class _Marks:
    """A text's pieces, and which of them are brackets that have a partner."""

    text: str
    pieces: list[str] = field(default_factory=list)
    factors: dict[int, float] = field(default_factory=dict)
    """What each opening bracket weighs, by its place."""
    closing: set[int] = field(default_factory=set)
    said: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        open_: dict[str, list[int]] = {"(": [], "[": []}
        end = 0
        for match in _MARK.finditer(self.text):
            self.pieces.append(self.text[end : match.start()])
            end = match.end()
            if match["open"]:
                open_[match["open"]].append(len(self.pieces))
                self.pieces.append(match["open"])
            elif match["close"]:
                self._close(match, open_[_OPENING[match["close"]]])
            else:
                self.pieces.append(match["escaped"])
        self.pieces.append(self.text[end:])
        for mark, places in open_.items():
            if places:
                self.said[f"a {mark} is not closed: it weighs all that follows"] = None
            self.factors.update(dict.fromkeys(places, _factor(mark)))

    def _close(self, match: re.Match[str], open_: list[int]) -> None:
        mark = match["close"]
        if not open_:
            self.said[f"a {mark} closes nothing: it is drawn"] = None
            self.pieces.append(match[0])
            return
        weight = number_of(match["weight"] or "") if mark == ")" else None
        if match["weight"] and weight is None:
            self.pieces.append(match[0][:-1])
            if mark == ")":
                self.said[f"{match['weight']!r} is no weight: it is drawn"] = None
        self.factors[open_.pop()] = _factor(_OPENING[mark]) if weight is None else weight
        self.closing.add(len(self.pieces))
        self.pieces.append(mark)


def _factor(opening: str) -> float:
    return STEP if opening == "(" else 1 / STEP


def _append(chunks: list[list[tuple[float, list[str]]]], text: str, weight: float) -> None:
    for number, part in enumerate(_BREAK.split(text)):
        if number:
            chunks.append([])
        if not part:
            continue
        if chunks[-1] and chunks[-1][-1][0] == weight:
            chunks[-1][-1][1].append(part)
        else:
            chunks[-1].append((weight, [part]))
