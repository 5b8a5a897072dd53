"""Which words would a reader see in a text, however its letters are written?

Letters of other alphabets that look like Latin ones, full-width, mathematical and circled letters,
and characters that nobody sees are ways to write a word so that a list of words does not find it.
"""

# ruff: noqa: RUF001, E501  (letters that look like others are what this is about)

import re
import unicodedata
from functools import lru_cache

# Look-alikes that no rule of Unicode joins: Cyrillic, Greek, Armenian, Cherokee, others.
_SAME = {
    latin: look
    for latin, look in {
        "a": "аɑαạ⍺ᗅꭺ", "b": "ЬьᏏƄᖯ", "c": "сϲⅽᴄꮯᑕ", "d": "ԁɗᏧⅾᗞ", "e": "еҽєℯɛⴹꭼ", "f": "ғϝꬵſ",
        "g": "ɡցɢᏀ", "h": "һհнᏂ", "i": "іıɩιӏⅰᎥ", "j": "јϳյᎫ", "k": "кκᴋᏦ", "l": "ⅼ|ӏᏞ", "m": "мⅿᴍᎷ",
        "n": "пոռηᴎ", "o": "оοσօᴏ০୦၀〇", "p": "рρꮲᏢ", "q": "ԛգզ", "r": "гᴦɾᏒ", "s": "ѕꜱტᏚ", "t": "тτᴛᎢ",
        "u": "υսцᴜ", "v": "νѵᴠⅴᏙ", "w": "ԝѡωᴡᎳ", "x": "хχⅹ×", "y": "уүγᎽ", "z": "ᴢᏃ",
    }.items()
}  # fmt: skip
_LOOKS = {ord(char): latin for latin, look in _SAME.items() for char in look}
_NAMED = re.compile(
    r"(?:NEGATIVE )?(?:LATIN|REGIONAL INDICATOR|CIRCLED|SQUARED)\b.*\b(?:LETTER|CAPITAL|SMALL) ([A-Z])(?: WITH .*)?"
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_MIXABLE = re.compile(
    "[\u0250-\u02af\u0370-\u058f\u0e50-\u0eff\u10a0-\u10ff\u13a0-\u1fff\u2c00-\uabff]"
)
_LATIN = re.compile(r"[A-Za-z]")
_WORD = re.compile(r"\w+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NUMBERED = re.compile(r"(?<=[A-Za-z]{2})(?=[vV]?\d)")
_DIGITS = re.compile(r"\b(?!v\d)(?=\w*[a-z])(?=\w*\d)\w+\b", re.I)
_LETTERS = str.maketrans("0134578@$", "oieastbas")
_SINGLE = re.compile(r"\b[a-z](?:[\s.\-_*·|/]{1,2}[a-z]\b){3,}")


def seen(text: str) -> str:
    """Return a text without invisible characters, words of mixed alphabets in Latin letters.

    Words all of another alphabet stay as they are.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    if not _MIXABLE.search(text):
        return text
    return _WORD.sub(lambda word: _one_alphabet(word.group()), text)


def in_latin(text: str) -> str:
    """Return a text in small Latin letters as far as they look like them, without accents.

    To look for words in, not to be read: it makes nonsense of what is truly Russian or Greek.
    """
    text = seen(text)
    if not text.isascii():
        text = "".join(map(_latin, unicodedata.normalize("NFKD", text.casefold())))
    return text.lower()


def spoken_words(text: str) -> list[str]:
    """Return the words of a name or tag: `NudeWorld_v2` → nude, world, v2; `n.s.f.w` → nsfw."""
    told = _CAMEL.sub(" ", _NUMBERED.sub(" ", seen(text))).replace("'", "").replace("\u2019", "")
    told = in_latin(told).replace("_", " ")
    told = _SINGLE.sub(lambda found: re.sub(r"[\s.\-_*·|/]", "", found.group()), told)
    return re.findall(r"[^\W_]+", told)


def with_letters(text: str) -> str:
    """Return a text in which digits among letters are the letters they look like: l0li, 1gn0re."""
    return _DIGITS.sub(lambda word: word.group().translate(_LETTERS), text)


def _one_alphabet(word: str) -> str:
    if word.isascii() or not _LATIN.search(word):
        return word
    return "".join(_kept_case(char) for char in word)


def _kept_case(char: str) -> str:
    if char.isascii() or unicodedata.name(char, "").startswith("LATIN"):
        return char
    latin = _LOOKS.get(ord(char)) or _LOOKS.get(ord(char.lower()[0]))
    return (latin.upper() if char.isupper() else latin) if latin else char


@lru_cache(maxsize=4096)
def _latin(char: str) -> str:
    if char.isascii():
        return char
    if unicodedata.combining(char):
        return ""
    if look := _LOOKS.get(ord(char)):
        return look
    named = _NAMED.fullmatch(unicodedata.name(char, ""))
    return named.group(1).lower() if named else char
