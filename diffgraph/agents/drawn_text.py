"""What text does a base model draw for a prompt, and what of the prompt is not drawn?

Without tags, and with what the merged experts act on. A family that knows few words draws what the
prompt asks for in those words; one that knows any draws what is written.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from diffgraph.agents.nouns import Nouns
from diffgraph.agents.prompts import LONGEST_PROMPT, cleaned, phrases
from diffgraph.agents.triggers import trigger_for
from diffgraph.agents.words import FUNCTION_WORDS, WORD, content_stems, content_words, plain, stem
from diffgraph.families.vocabulary import Vocabulary
from diffgraph.prompting.syntax import parted, read_prompt
from diffgraph.prompting.weights import Fragment, weighted

TEXT_VERSION = 2
"""Raised when the same prompt and experts would give another text: images are then drawn anew."""
LONGEST_NAME = 80  # characters of an expert's


class DrawnText(NamedTuple):
    """A prompt as it is drawn."""

    text: str
    """In the syntax of prompts: weights are in it, and what is not to be drawn."""
    notes: tuple[str, ...] = ()
    """What was added, and what of the prompt is not drawn or not obeyed, a line each."""

    def lines(self, prompt: str) -> tuple[str, ...]:
        """Return what is told of it to whoever wrote the prompt; nothing where it is just drawn."""
        told = () if self.text == prompt else (f"drawn as: {' '.join(self.text.split())}",)
        return (*told, *self.notes)


def drawn_text(
    prompt: str, vocabulary: Vocabulary, called: Sequence[tuple[str, Sequence[str]]]
) -> DrawnText:
    """Return what is drawn for a prompt.

    Args:
        prompt: as a person wrote it.
        vocabulary: the words that the family knows.
        called: each merged expert's name, and what it acts on, as `trigger_phrases` gives it.
    """
    head, rest = parted(prompt)
    written = read_prompt(head).text
    text = understood(written, vocabulary)
    notes = [*read_prompt(prompt).unsupported, *_not_drawn(written, text)]
    added: list[str] = []
    for name, triggers in called:
        trigger = trigger_for(", ".join((text, *added, rest)), triggers)
        if not trigger:
            continue
        shown = plain(name, LONGEST_NAME)
        if _are_known(trigger, vocabulary.known):
            added.append(trigger)
            notes.append(f"trigger word added for {shown}: {trigger}")
        else:
            notes.append(f"{shown}'s trigger word is none of the family's, not drawn: {trigger}")
    if added:
        text = _with_triggers(text, added)
    gap = "" if not rest or text.endswith("\n") or not text else "\n"
    return DrawnText(text + gap + rest, tuple(notes))


def _with_triggers(text: str, triggers: Sequence[str]) -> str:
    """Return a text and triggers of the usual weight: a bracket left open weighs all behind it."""
    behind = ", ".join((text.rstrip(" ,\n"), *triggers)).removeprefix(", ")
    return behind if weighted(behind).chunks[-1][-1].weight == 1 else ", ".join((*triggers, text))


def understood(text: str, vocabulary: Vocabulary) -> str:
    """Return what a text asks for, in words of the vocabulary.

    What is all in its words stays as it is, and so does a text that has none of them, or one that
    is longer than what a reader reads: nothing is cut off in silence.
    """
    known = vocabulary.known
    if known is None or len(text) > LONGEST_PROMPT or _are_known(text, known):
        return text
    return _understood(text, vocabulary)


@lru_cache(maxsize=4096)
def _understood(text: str, vocabulary: Vocabulary) -> str:
    nouns = Nouns(vocabulary.nouns)
    spellings = {stem(word): word for word in sorted(vocabulary.known or (), key=len, reverse=True)}
    spellings |= {word: word for word in vocabulary.known or ()}
    chunks = [
        ", ".join(filter(None, (_reduced(part, nouns, spellings) for part in chunk)))
        for chunk in weighted(text).chunks
    ]
    return " BREAK ".join(filter(None, chunks)) or text


def _are_known(text: str, known: frozenset[str] | None) -> bool:
    """Tell whether a text holds nothing but words of a vocabulary, and plain punctuation."""
    if known is None:
        return True
    written = (part.text for chunk in weighted(text).chunks for part in chunk)
    return all(
        all(word.lower() in known for word in WORD.findall(part)) and not _symbols(part)
        for part in written
    )


def _reduced(part: Fragment, nouns: Nouns, spellings: Mapping[str, str]) -> str:
    """Return what a fragment asks for in known words, weighed as it is."""
    parts = phrases(cleaned(part.text), nouns)
    asked = ", ".join(filter(None, (_known_words(phrase, spellings) for phrase in parts)))
    return f"({asked}:{part.weight:g})" if asked and part.weight != 1 else asked


def _known_words(phrase: str, spellings: Mapping[str, str]) -> str:
    """Return the known words of a phrase; nothing if they name nothing to be seen."""
    found = (match.lower() for match in WORD.findall(phrase))
    kept = [known for word in found if (known := spellings.get(word) or spellings.get(stem(word)))]
    while kept and kept[-1] in FUNCTION_WORDS:
        kept.pop()
    return " ".join(kept) if content_words(" ".join(kept)) else ""


def _not_drawn(written: str, text: str) -> list[str]:
    """Return a line on what was said and is not drawn, if anything."""
    if written == text:
        return []
    drawn = content_stems(text)
    said = (word for word in content_words(written) if word.split("'")[0] not in FUNCTION_WORDS)
    left = [word for word in said if stem(word) not in drawn]
    left += dict.fromkeys(_symbols(written))
    return [f"not drawn: {', '.join(left)}"] if left else []


def _symbols(text: str) -> list[str]:
    """Return the emoji and other symbols of a text."""
    return [char for char in text if unicodedata.category(char) in ("So", "Cn", "Co")]
