"""Which words make an expert act, and are they in a text already?

What pages call trigger words are keys to press, alternatives, lists of tags, whole prompts with
weights and tags, and texts of strangers. So of an expert's trigger words one phrase is used, the
first that says anything: the others are mostly other things that it can do. An expert whose text
says any of its phrases has been called already.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from diffgraph.agents.injections import is_injection
from diffgraph.agents.titles import names_a_skill
from diffgraph.agents.words import FUNCTION_WORDS, plain, words
from diffgraph.prompting.syntax import read_prompt
from diffgraph.prompting.weights import weighted

LONGEST_TRIGGER = 60  # characters: what is longer is a sentence
MOST_READ = 64  # trigger words of a page
LONGEST_READ = 400  # characters of one

_ANYBODYS = frozenset("1girl 1boy girl boy man woman person people sfw".split())
"""Tags that half of all pages have; `names_a_skill` knows those of quality."""
_OPENING = re.compile(r"^[(\[{\s]+")
_CLOSING = re.compile(r"[)\]}\s]+$")
_WEIGHT = re.compile(r":\s*[\d.]+\s*(?=[)\]])")
_LOOSE = re.compile(r"[\[\]{}<>|:;\\]+")
_COMMANDS = re.compile(r"\b(?:BREAK|AND)\b")


@lru_cache(maxsize=4096)
def trigger_phrases(triggers: tuple[str, ...]) -> tuple[str, ...]:
    r"""Return an expert's trigger words as they can stand in any prompt, in the page's order.

    Each is one phrase: without weights, tags and whatever else could change the rest of a prompt;
    brackets that belong to a name are written `\(` and `\)`, so that they are drawn.
    """
    found: dict[str, None] = {}
    for trigger in triggers[:MOST_READ]:
        text = read_prompt(plain(trigger, LONGEST_READ).replace("\\", "")).text
        if not is_injection(text):
            parts = _WEIGHT.sub("", text).split(",")
            found.update(dict.fromkeys(filter(None, map(_phrase, parts))))
    return tuple(found)


def trigger_for(text: str, phrases: Sequence[str]) -> str:
    """Return the phrase that a text lacks for an expert to act; empty if it says one, or none is.

    Args:
        text: of a prompt, weights included.
        phrases: the expert's, as `trigger_phrases` gives them.
    """
    if not phrases:
        return ""
    said = f" {' '.join(words(text))} "
    if any(f" {_said(phrase)} " in said for phrase in phrases):
        return ""
    return phrases[0]


def _said(phrase: str) -> str:
    """Return the words of a phrase that a text must say: of `in the snow`, `snow`."""
    found = words(phrase)
    telling = [place for place, word in enumerate(found) if word not in FUNCTION_WORDS]
    return " ".join(found[telling[0] : telling[-1] + 1] if telling else found)


def _phrase(text: str) -> str:
    """Return a phrase that can stand in any prompt; empty if this one cannot."""
    inner = _OPENING.sub("", text.strip())
    if inner != text.strip():  # weighed; brackets within belong to the name
        inner = _CLOSING.sub("", inner)
    bare = " ".join(_COMMANDS.sub(" ", _LOOSE.sub(" ", inner)).split()).strip(" .-")
    if bare.count("(") != bare.count(")"):
        bare = " ".join(re.sub(r"[()]", " ", bare).split())
    if not words(bare) or len(bare) > LONGEST_TRIGGER or bare.lower() in _ANYBODYS:
        return ""
    if not names_a_skill(bare):
        return ""
    phrase = re.sub(r"([()])", r"\\\1", bare)
    read = read_prompt(phrase)
    stands_alone = read.text == phrase and not read.unsupported and weighted(phrase).is_plain
    return phrase if stands_alone else ""
