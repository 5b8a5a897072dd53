"""Which captions and prompts describe a picture?

Wordings of a subject, a style and treatments, drawn from templates with the generator that is
passed in, so that a model learns the meaning and not one phrase.
"""

import re
from collections.abc import Sequence

import numpy as np

from recipes.emoji64.art import Subject
from recipes.emoji64.treatments import TREATMENTS

STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "noto": ("noto style", "in noto style", "noto emoji"),
    "twemoji": ("twemoji style", "in twemoji style", "twemoji icon"),
    "3d": ("glossy 3d render", "3d render", "in 3d"),
    "flat": ("flat icon", "flat design", "in a flat style"),
    "high contrast": ("line art icon", "line art", "high contrast icon"),
}
OPENINGS = ("a picture of ", "an image of ", "a drawing of ", "an emoji of ", "an icon of ")
ATTACHED = frozenset(
    "as at casting deep drawn framed glowing in made on painted tinted under with".split()
)
UNCOUNTABLE = frozenset(
    "bread bacon butter rice curry spaghetti sushi tofu garlic ginger corn wood fog rain snow "
    "sake honey yarn thread ice fuji makeup broccoli salt cheese luggage soap toothpaste".split()
)
TAG_SHARE, NAKED_SHARE, OPENING_SHARE, LEADING_SHARE = 0.12, 0.25, 0.15, 0.25
VOWELS = "aeiou"


def subject_name(subject: Subject) -> str:
    """Return the name as people write it: "man with curly hair", not "man: curly hair"."""
    name = re.sub(r"\s*\([^)]*\)", "", subject.name)
    name = (
        name.replace("\u2019", "'").replace("\u201c", "").replace("\u201d", "").replace("&", "and")
    )
    name = re.sub(r"^keycap: ", "keycap ", name).replace(": ", " with ")
    if subject.group == "animals":
        name = re.sub(r" face$", "", name)
    return name


def with_article(name: str) -> str:
    """Return a name with "a" or "an" where English wants one."""
    last = name.split(" with ")[0].split()[-1]
    is_plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    if is_plural or last in UNCOUNTABLE or not name[0].isalpha():
        return name
    return f"{'an' if name[0] in VOWELS else 'a'} {name}"


def subject_wording(subject: Subject, rng: np.random.Generator, tags: bool = True) -> str:
    """Return one of the ways to name a subject; with `tags`, now and then a tag comes behind."""
    name = subject_name(subject)
    draw = rng.random()
    if tags and draw < TAG_SHARE and subject.tags:
        tag = subject.tags[rng.integers(len(subject.tags))]
        return f"{with_article(name)}, {tag}"
    return name if draw < TAG_SHARE + NAKED_SHARE else with_article(name)


def plain_caption(subject: Subject, style: str | None = None) -> str:
    """Return the shortest clear caption, always the same: "a dog, flat icon"."""
    name = with_article(subject_name(subject))
    return name if style is None else f"{name}, {STYLE_PHRASES[style][0]}"


def caption(
    subject: Subject,
    style: str | None,
    treatments: Sequence[str],
    rng: np.random.Generator,
    tags: bool = True,
) -> str:
    """Return a caption naming the subject, the style (unless None) and all treatments.

    Args:
        subject: what is shown.
        style: one of `STYLES`, or None to leave it open.
        treatments: keys of `TREATMENTS`.
        rng: the source of all variety.
        tags: whether a tag may come behind the subject, as people pile up words.
    """
    options = [TREATMENTS[name].phrases for name in treatments]
    if style is not None:
        options.append(STYLE_PHRASES[style])
    phrases = [choices[rng.integers(len(choices))] for choices in options]
    phrases = [phrases[place] for place in rng.permutation(len(phrases))]
    opening = OPENINGS[rng.integers(len(OPENINGS))] if rng.random() < OPENING_SHARE else ""
    text = opening + subject_wording(subject, rng, tags)
    if phrases and not opening and rng.random() < LEADING_SHARE:
        return ", ".join((phrases[0], text, *phrases[1:]))
    for phrase in phrases:
        text += _joint(phrase, rng) + phrase
    return text


def vocabulary(subjects: Sequence[Subject]) -> list[str]:
    """Return all words of names, tags, phrases and templates, and common words, sorted."""
    texts = [subject_name(subject) for subject in subjects]
    texts += [" ".join((subject.name, *subject.tags)) for subject in subjects]
    texts += [phrase for treatment in TREATMENTS.values() for phrase in treatment.phrases]
    texts += [phrase for phrases in STYLE_PHRASES.values() for phrase in phrases]
    texts += [*OPENINGS, FUNCTION_WORDS]
    return sorted({word for text in texts for word in words(text)})


def words(text: str) -> list[str]:
    """Return a text's words in lower case, hyphens and punctuation taken as spaces."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())


def _joint(phrase: str, rng: np.random.Generator) -> str:
    if phrase.split()[0] in ATTACHED and rng.random() < 0.6:
        return " "
    return ", "


FUNCTION_WORDS = """
a an the and or but of in on at with without under over by for from to into like as is are be i
you he she it we they me my your his her its our their this that these those some any one two
three very really so too not no please show draw make paint give want would love need picture
image drawing photo icon emoji art style background look looks looking big small little large tiny
happy sad cute funny beautiful nice old new young red green blue yellow orange purple pink black
white brown grey gray colour color colours colors coloured colored bright dark light soft warm
cold painting sketch portrait poster print logo sticker cartoon scene during while behind front
"""
