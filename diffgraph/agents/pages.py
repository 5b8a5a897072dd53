"""What does an expert's page say, once advertising, advice and orders to the reader are gone?

A page is untrusted text. Its sentences are only ever quoted: one that speaks to a language
model is dropped like one that asks for money, and one that says nothing about what can be seen is
dropped as well.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple
from unicodedata import category

from diffgraph.agents.boilerplate import is_boilerplate
from diffgraph.agents.injections import is_injection
from diffgraph.agents.markup import lines_and_links
from diffgraph.agents.nouns import Nouns
from diffgraph.agents.prompts import EFFECT_WORDS
from diffgraph.agents.words import content_words, plain, stem, words

LONGEST_SENTENCE = 300
ENOUGH = 1.0  # what a sentence has to tell, see `_told`
SOMETHING = 0.3  # the same for the only one: two words and no talk


class Sentence(NamedTuple):
    """What a page says, and how much of it is about what can be seen."""

    text: str
    told: float


_SENTENCE_END = re.compile(
    "(?<=[.!?…])\\s+(?=\\S)|(?<=[\u3002\uff01\uff1f!?])(?=[^\\W\\d_])"
    r"|\s*[•|►→▶◆■●★☆✦]\s*|\s+[-*~]{1,3}\s+(?=[A-Z])"
    r"|\s*[-=_*~]{4,}\s*"
)
_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|\S+@\S+\.\w+|\b[\w-]+\.(?:com|net|org|io|gg|ai|ly|me)\b\S*", re.I
)
_TAG = re.compile(
    r"<(script|style)\b.{0,2000}?(?:</\1\s*>|$)|<[^<>]{0,200}>|[<>]"
    r"|\{\{.{0,200}?\}\}|\{%.{0,200}?%\}|\$\{[^{}]{0,200}\}",
    re.I | re.S,
)
_EMPTY = re.compile(r"\([^\w()]*\)|\[[^\w\[\]]*\]")

_ONESELF = re.compile(r"\b(?:i|i'm|i've|i'd|i'll|me|my|we|our|us|myself)\b", re.I)
_READER = re.compile(r"\b(?:you|your|you're|you'll|u|ur|yours|people|everyone|someone)\b", re.I)
_TRAINED = re.compile(r"\btrained\s+on\b", re.I)
_SEEN = frozenset(
    map(
        stem,
        """
    generates creates produces makes adds gives turns depicts emulates imitates mimics recreates
    captures resembles inspired based lets draws paints renders transforms looks appears style
    styles styled stylized aesthetic look artist artwork character outfit costume clothing clothes
    dress armor uniform background landscape portrait scene scenery lighting light shadow texture
    detail details colors color colour palette painting drawing sketch illustration photo photos
    photography photorealistic realistic realism cinematic anime manga manhwa cartoon comic chibi
    film movie game pose poses hair eyes face faces skin hands body makeup environment interior
    architecture weapon mecha robot cyborg monster creature fantasy scifi sci-fi science-fiction
    horror alien sci fi cyberpunk steampunk gothic retro vintage futuristic surreal abstract
    minimalist vector pixel bright dark glowing lightning thunder magic fire water smoke
    neon pastel colorful dithering halftone panorama wide banner brush strokes ink line lines
    shape shapes soft round
    glossy metal wood stone fabric specialized focus focusing designed good great excels
    """.split(),
    )
)


def sentences(line: str) -> tuple[str, ...]:
    """Return the sentences of a line, cut to a readable length."""
    parts = (part.strip(" -*•|#>\"'") for part in _SENTENCE_END.split(line))
    return tuple(part[:LONGEST_SENTENCE] for part in parts if part)


def tidy(text: str) -> str:
    """Return a text without web addresses, markup, emoji and other symbols."""
    text = _TAG.sub(" ", _ADDRESS.sub(" ", text))
    if not text.isascii():
        text = "".join(" " if category(char) in ("So", "Sk") else char for char in text)
    return plain(_EMPTY.sub(" ", text))


def descriptive_sentences(html: str, nouns: Nouns) -> tuple[Sentence, ...]:
    """Return the sentences of a page that describe, without web addresses and repeats, in order.

    If no sentence describes enough, the most descriptive one is returned.
    """
    found: dict[str, Sentence] = {}
    for line in _own_lines(html):
        for sentence in sentences(line):
            if not is_boilerplate(sentence) and not is_injection(sentence):
                text = tidy(sentence)
                found.setdefault(text.lower(), Sentence(text, _told(text, nouns)))
    telling = tuple(sentence for sentence in found.values() if sentence.told >= ENOUGH)
    return telling or _best(tuple(found.values()))


def _best(found: tuple[Sentence, ...]) -> tuple[Sentence, ...]:
    best = max(found, key=lambda sentence: sentence.told, default=None)
    return () if best is None or best.told < SOMETHING else (best,)


def _own_lines(html: str) -> Iterator[str]:
    """Yield the lines that are more than a link: those lead to other experts."""
    return (line for line, is_link in lines_and_links(html) if not is_link)


def _told(sentence: str, nouns: Nouns) -> float:
    """Return how much of a sentence is about what can be seen."""
    found = content_words(_ADDRESS.sub(" ", sentence))
    length = sum(1.0 if word.isascii() else max(1.0, len(word) / 2) for word in found)
    shown = sum(1 for word in found if stem(word) in _SEEN or word in nouns or word in EFFECT_WORDS)
    acts = sum(1 for word in words(sentence) if stem(word) in _SEEN and word not in found)
    foreign = any(not word.isascii() for word in found)
    talk = (
        1.8 * bool(_ONESELF.search(sentence))
        + 0.8 * bool(_READER.search(sentence))
        + 1.5 * bool(_TRAINED.search(sentence))
    )
    return min(shown, 5) + 0.5 * min(acts, 2) + 0.15 * min(length, 12) + 0.7 * foreign - talk
