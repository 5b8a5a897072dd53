"""Which words of a text carry meaning, and when are two words the same?

Small closed lists instead of a language model: enough to compare a prompt with a page, in
microseconds.
"""

import re
import unicodedata
from functools import lru_cache

from diffgraph.spelling import seen

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every all both such one ones i me my we us our you
    your he him his she her it its they them their who whose which what is are was were be been
    being am do does did done has have had having can could will would shall should may might must
    let lets get gets got want wants need needs like likes love and or but nor so yet if then than
    as because while though although when where how why of in on at by to for from with without
    within into onto over under above below beneath behind between among around against along
    across through during before after near beside beyond inside outside upon off out up down about
    per via toward towards amid not no very really quite just only also too more most much many few
    little lot lots bit other there here now again ever always never please thanks thank
    """.split()
)

EMPTY_WORDS = frozenset(
    """
    everything picture pictures image images photo pic art artwork illustration render style styles
    styled look looks looking effect effects aesthetic vibe feel mood theme themed version kind
    sort type thing things something make makes making made use used using add adds adding give
    gives turn turns turned apply applied put draw drawn create created generate generated show
    shows showing beautiful nice good great best better perfect amazing awesome cool quality
    detailed masterpiece model models icon icons emoji emojis design lora locon lycoris dora loha
    lokr checkpoint expert trained training concept whole
    """.split()
)
"""Words that any page or prompt may hold: they tell no skill from another."""

_ONE_WORD = re.compile(r"\bline[\s-]+art\b", re.I)
"""What says nothing in two words: a page of "white lines" is not about line art."""

_PLURAL_ONLY = frozenset({"glasses"})
"""What means something else in the singular."""

_BRITISH = (("colour", "color"), ("grey", "gray"), ("jewellery", "jewelry"), ("centre", "center"))


TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TYPOGRAPHY = str.maketrans(
    {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2010: "-", 0x2013: "-", 0x2014: "-"}
)


def plain(text: str, limit: int = 100_000) -> str:
    """Return a text on one line, in plain punctuation, without control or invisible characters.

    A word whose letters are of several alphabets is written in Latin ones.
    """
    text = TERMINAL_CODE.sub(" ", text[:limit])
    text = seen(text).translate(_TYPOGRAPHY)
    if text.isprintable():  # nothing to take out: most texts, and much faster
        return " ".join(text.split())
    kept = (char if unicodedata.category(char)[0] != "C" else _gap(char) for char in text)
    return " ".join("".join(kept).split())


def _gap(char: str) -> str:
    return " " if char in "\t\n\v\f\r\x85" else ""


@lru_cache(maxsize=100_000)
def stem(word: str) -> str:
    """Return what the forms of an English word share: `snowy`, `snowing`, `snow` → `snow`.

    Rough on purpose: it only has to treat the two texts that are compared alike.
    """
    word = word.lower().removesuffix("'s").replace("'", "")
    if word in _PLURAL_ONLY:
        return word
    for british, american in _BRITISH:
        word = word.replace(british, american)
    if len(word) > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 2 and word.endswith(ending):
            word = word.removesuffix(ending)
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]  # running → run
            break
    if len(word) > 4 and word.endswith("y"):
        word = word[:-1]
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, in order."""
    return tuple(match.lower() for match in WORD.findall(joined(text.translate(_TYPOGRAPHY))))


def joined(text: str) -> str:
    """Return a text in which what has a meaning only together is one word."""
    return _ONE_WORD.sub("lineart", text)


def content_words(text: str) -> tuple[str, ...]:
    """Return the words that say what is to be seen, in lower case, in order, without repeats."""
    found = (word for word in words(text) if _has_content(word))
    return tuple(dict.fromkeys(found))


def content_stems(text: str) -> frozenset[str]:
    """Return the stems of a text's content words."""
    return frozenset(stem(word) for word in content_words(text))


def _has_content(word: str) -> bool:
    if word in FUNCTION_WORDS or word in EMPTY_WORDS:
        return False
    return not word.isdigit() and (len(word) > 1 or not word.isascii())
