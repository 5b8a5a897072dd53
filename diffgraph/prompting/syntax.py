"""What does a prompt say, as people write it?

The syntax is that of AUTOMATIC1111's web UI, which the community shares: weights, `BREAK`, tags of
experts, a `Negative prompt:` part, and all of a picture's `parameters` text pasted in. Any text can
be read, in linear time; what is not obeyed is said, never dropped.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby

from diffgraph.prompting.weights import NUMBER, number_of, weighted


@dataclass(frozen=True)
class ExpertTag:
    """`<lora:name:0.8:0.5>`: an expert that a prompt names."""

    name: str
    strength: float
    text_strength: float | None
    """On the text encoder; None: the same."""
    written: str


@dataclass(frozen=True)
class WrittenPrompt:
    """A prompt in its parts."""

    text: str
    """What is to be drawn; weights and `BREAK` are still in it."""
    negative: str = ""
    """What is not to be drawn, likewise; empty if nothing is said."""
    tags: tuple[ExpertTag, ...] = ()
    unsupported: tuple[str, ...] = ()
    """What is not obeyed, or not as it is written, each with the reason."""
    clip_skip: int | None = None
    """The `Clip skip` of settings that were pasted along: 1 is the text encoder's last layer."""


_NEGATIVE = re.compile(r"\bnegative\s+prompt\s*:", re.I)
_SETTINGS = re.compile(
    r"^[ \t]*steps[ \t]*:[ \t]*\d+[ \t]*(?:,|$).*?(?=^[ \t]*negative[ \t]+prompt[ \t]*:|\Z)",
    re.I | re.M | re.S,
)
_CLIP_SKIP = re.compile(r"\bclip skip\s*:\s*(\d{1,3})\b", re.I)
_PIECE = re.compile(
    r"(?P<escaped>\\.)"
    r"|<(?P<kind>[^\W\d]\w*):(?P<content>[^<>\n]*)>"
    r"|<(?P<open>lora|lyco|hypernet):(?P<unclosed>[^<>\n,]*)"
    r"|(?P<inversion><[^\W\d][^<>\s:]*>|\bembedding:[\w./-]+)"
    r"|(?P<mark>[()\[\]|:])"
    r"|(?P<both>\bAND\b)",
    re.S,
)
_UNSUPPORTED = {
    "": "textual inversions are not supported",
    "hypernet": "hypernetworks are not supported",
}
_SEPARATORS = ("", " ", "\n", ", ")  # the last is the strongest
_SHOWN = 60  # characters of what is quoted
_COMMAS = " ,\t\r\n"


def read_prompt(text: str) -> WrittenPrompt:
    """Return what a prompt says; never fails."""
    settings = [match[0].strip() for match in _SETTINGS.finditer(text)]
    drawn, *avoided = _NEGATIVE.split(_SETTINGS.sub("", text) if settings else text)
    wanted = _Reader(drawn.strip() if avoided or settings else drawn)
    unwanted = _Reader(", ".join(filter(None, (part.strip(_COMMAS) for part in avoided))))
    said = [
        *wanted.said,
        *unwanted.said,
        *(f"{_quoted(tag.written)}: not obeyed in a negative prompt" for tag in unwanted.tags),
        *(f"{_quoted(line)}: of settings, only clip skip is obeyed" for line in settings),
    ]
    skips = (found[1] for line in settings if (found := _CLIP_SKIP.search(line)))
    return WrittenPrompt(
        wanted.text,
        unwanted.text,
        tuple(wanted.tags),
        tuple(dict.fromkeys(said)),
        next((int(skip) for skip in skips if int(skip)), None),
    )


def parted(text: str) -> tuple[str, str]:
    """Return a prompt in two, unread: what is to be drawn, and all that comes after it."""
    found = [match.start() for match in (_NEGATIVE.search(text), _SETTINGS.search(text)) if match]
    end = min(found, default=len(text))
    return text[:end], text[end:]


class _Gap(Enum):
    """What stands for what was taken out of a text."""

    SPACE = " "
    COMMA = ", "


@dataclass
class _Square:
    """An open `[`: where it stands, and what parts it at its own depth."""

    place: int
    depth: int  # of round brackets
    start: int  # in the text
    bars: list[int] = field(default_factory=list)


class _Reader:
    """Reads the positive or the negative part of a prompt, from left to right."""

    def __init__(self, written: str) -> None:
        self.tags: list[ExpertTag] = []
        self.said: list[str] = []
        self._written = written
        self._pieces: list[str | _Gap] = []
        self._squares: list[_Square] = []
        self._depth = 0
        end = 0
        for match in _PIECE.finditer(written):
            if match.start() > end:
                self._pieces.append(written[end : match.start()])
            self._read(match)
            end = match.end()
        self._pieces.append(written[end:])
        self.text = _joined(self._pieces)
        self.said += weighted(self.text).unsupported

    def _read(self, match: re.Match[str]) -> None:
        kind = (match["kind"] or match["open"] or "").lower()
        if kind in ("lora", "lyco"):
            self._tag(match)
        elif kind or match["inversion"]:
            self._leave_out(match[0], _UNSUPPORTED.get(kind, "such tags are not supported"))
        elif match["both"]:
            self._pieces.append(_Gap.COMMA)
            self.said.append("AND: not composed; what it parts is drawn as one prompt")
        elif match["mark"]:
            self._pieces.append(match[0])
            self._mark(match[0], match.start())
        else:
            self._pieces.append(match[0])

    def _leave_out(self, written: str, reason: str) -> None:
        self._pieces.append(_Gap.SPACE)
        self.said.append(f"{_quoted(written)}: {reason}; left out")

    def _tag(self, match: re.Match[str]) -> None:
        written = match[0]
        name, *rest = (match["content"] or match["unclosed"] or "").split(":")
        if not name.strip():
            self._leave_out(written, "names no expert")
            return
        if match["open"]:
            self.said.append(f"{_quoted(written)}: not closed; read as {_quoted(written)}>")
        strengths: list[float | None] = [None, None]
        for place, part in enumerate(rest):
            key, _, value = part.rpartition("=")
            if key:
                place = {"unet": 0, "te": 1}.get(key.strip().lower(), len(strengths))
            found = number_of(value)
            if place < len(strengths) and found is not None:
                strengths[place] = found
            else:
                self.said.append(f"{_quoted(written)}: {_quoted(part)!r} is not obeyed")
        strength, on_text = strengths
        self._pieces.append(_Gap.SPACE)
        self.tags.append(
            ExpertTag(name.strip(), 1.0 if strength is None else strength, on_text, written)
        )

    def _mark(self, mark: str, start: int) -> None:
        place = len(self._pieces) - 1
        if mark == "(":
            self._depth += 1
        elif mark == ")":
            self._depth = max(0, self._depth - 1)
        elif mark == "[":
            self._squares.append(_Square(place, self._depth, start))
        elif self._squares and mark == "]":
            self._close(self._squares.pop(), place, start + 1)
        elif self._squares and self._squares[-1].depth == self._depth:
            self._squares[-1].bars.append(place)

    def _close(self, square: _Square, place: int, end: int) -> None:
        """Write out `[a:b:0.5]` and `[a|b]` as what they show, one after the other."""
        bars, pieces = square.bars, self._pieces
        last = pieces[place - 1]
        timed = (
            bars[-1:] == [place - 2]
            and isinstance(last, str)
            and bool(NUMBER.fullmatch(last.strip()))
        )
        if not timed and all(pieces[bar] == ":" for bar in bars):
            return
        for bar in bars:
            pieces[bar] = _Gap.COMMA
        if timed:
            pieces[bars[-1]], pieces[place - 1] = _Gap.SPACE, ""
        pieces[square.place] = pieces[place] = ""
        shown = self._written[square.start : min(end, square.start + 4 * _SHOWN)]
        self.said.append(f"{_quoted(shown)}: steps do not alternate; all of it is drawn")


def _joined(pieces: list["str | _Gap"]) -> str:
    """Return pieces as one text; at a gap, one separator stands for all commas and spaces."""
    parts: list[str | _Gap] = []
    for is_gap, run in groupby(pieces, key=lambda piece: isinstance(piece, _Gap)):
        found = list(run)
        parts += found if is_gap else ["".join(map(str, found))]
    if not any(isinstance(part, _Gap) for part in parts):
        return "".join(map(str, parts))
    joined: list[str] = []
    between = ""
    for part in parts:
        if isinstance(part, _Gap):
            between = max(between, part.value, key=_SEPARATORS.index)
            continue
        kept = part.strip(_COMMAS)
        before, _, after = part.partition(kept) if kept else (part, "", "")
        between = max(between, _separator(before), key=_SEPARATORS.index)
        if kept:
            joined += [between, kept] if joined else [kept]
            between = _separator(after)
    return "".join(joined)


def _separator(text: str) -> str:
    """Return the strongest separator in a run of commas and spaces."""
    return ", " if "," in text else "\n" if "\n" in text else " " if text else ""


def _quoted(text: str) -> str:
    one_line = " ".join(text[: 4 * _SHOWN].split())
    return one_line if len(one_line) <= _SHOWN else f"{one_line[: _SHOWN - 1]}…"
