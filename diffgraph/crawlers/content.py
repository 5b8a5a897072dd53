"""What may an expert draw, by what its page says of itself?

Hubs have flags for real people, for minors and for what is not safe for work, and their makers
forget them; the page's tags or its name may say so all the same. Whole words count, in any spelling
a reader would take for them, and not where they are denied or mean something else: "no celebrity",
"Prelude in A minor", "Ursa Minor".
"""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, Field

from diffgraph.errors import NotMergeable, UnusableListing
from diffgraph.experts.expert import Listing
from diffgraph.spelling import spoken_words, with_letters

Rule = Literal["refuse", "know", "take"]
"""refuse: not used. know: its page is kept, its weights are not merged. take: no matter."""


class ContentConfig(BaseModel, frozen=True):
    """What is refused for what it draws, and which words of a tag or a name say so."""

    real_people: Rule = "refuse"
    minors: Literal["refuse", "know"] = "refuse"
    explicit: Rule = "refuse"
    withdrawn: Literal["refuse", "know"] = Field(
        default="know", description="taken down, archived, deleted or unpublished by its hub"
    )
    real_people_words: tuple[str, ...] = (
        "celebrity", "celebrities", "celeb", "celebs", "real person", "real persons",
        "real people", "real human", "real life person", "real life people",
        "famous person", "famous people", "public figure",
        "porn star", "pornstar", "pornstars", "deepfake", "deepfakes",
    )  # fmt: skip
    real_people_tags: tuple[str, ...] = (
        "actor", "actress", "actors", "actresses", "politician", "politicians", "influencer",
        "influencers", "youtuber", "youtubers", "tiktoker", "instagram model", "singer", "singers",
        "kpop", "kpop idol", "k pop", "k pop idol", "famous actor", "famous actress",
        "hollywood actress", "streamer",
    )  # fmt: skip
    """Which say so as a whole tag only: a name may hold them for another reason."""
    minors_words: tuple[str, ...] = (
        "minor", "minors", "underage", "under age", "underaged", "loli", "lolis", "lolicon",
        "shota", "shotas", "shotacon", "under 18", "toddlercon", "jailbait", "preteen", "preteens",
    )  # fmt: skip
    minors_tags: tuple[str, ...] = ()
    explicit_words: tuple[str, ...] = (
        "nsfw", "not safe for work", "not for all audiences", "explicit", "sexually explicit",
        "porn", "porno", "pornographic", "pornography", "hentai", "xxx", "erotic", "erotica",
        "sex", "sexual", "nude", "nudes", "nudity", "naked", "r18", "r 18", "rule 34", "r34",
        "r 34", "onlyfans", "softcore", "unclothed",
        "fetish", "bdsm", "blowjob", "cumshot", "ahegao", "genitals", "genitalia", "vagina",
        "penis", "nipples", "topless", "adults only", "adult content", "18 plus",
    )  # fmt: skip
    explicit_tags: tuple[str, ...] = (
        "adult", "mature", "lewd", "lewds", "ecchi", "hardcore", "x rated", "18",
    )  # fmt: skip
    innocent: tuple[str, ...] = (
        "ursa minor", "canis minor", "leo minor", "asia minor", "minor arcana", "minor key",
        "minor scale", "minor chord", "minor update", "minor updates", "minor fix", "minor fixes",
        "minor change", "minor changes", "minor edit", "minor edits", "minor tweak",
        "minor tweaks", "minor bugfix", "minor improvements", "minor version", "minor league",
        "minor details", "naked eye", "naked mole", "naked cake", "nude lips", "nude lipstick",
        "nude makeup", "nude color", "nude colors", "nude heels", "nude palette",
        "explicit instructions", "sex pistols", "same sex", "unisex",
    )  # fmt: skip
    """What holds one of the words and means something else."""


DENIALS = frozenset("no not non without never anti isnt arent dont".split())
BETWEEN = frozenset("a an any the of for real or and nor is".split())
"""What may stand between a denial and what it denies."""
MUSIC = re.compile(
    r"\b[a-g](?: sharp| flat)? minor(?= (?:key|scale|chord|sonata|waltz|prelude|fugue|mass|suite"
    r"|symphony|concerto|etude|nocturne|op|opus|no)\b| v?\d|$)"
    r"|(?<=\bin )[a-g](?: sharp| flat)? minor"
)
MOST_CHARACTERS = 200


def check_content(listing: Listing, config: ContentConfig) -> None:
    """Raise the error that rules a listing out for what it draws, or for having been withdrawn.

    Raises:
        UnusableListing: It must not be used.
        NotMergeable: It may be known, not merged.
    """
    minors, people, explicit = _sayings(config)
    rules: tuple[tuple[Rule, bool, _Said, str], ...] = (
        (config.minors, listing.minor, minors, "as drawing a minor"),
        (config.real_people, listing.real_person, people, "as drawing a real person"),
        (config.explicit, listing.nsfw, explicit, "as not safe for work"),
    )
    for rule, is_flagged, said, what in rules:
        if rule == "take":
            continue
        if is_flagged:
            _refuse(rule, f"marked {what}")
        if where := _where_said(listing, said):
            _refuse(rule, f"{where} {what}")
    if listing.withdrawn:
        _refuse(config.withdrawn, f"its hub says {listing.withdrawn!r}: it has been withdrawn")


def _refuse(rule: str, reason: str) -> None:
    raise (NotMergeable if rule == "know" else UnusableListing)(reason)


def _where_said(listing: Listing, said: "_Said") -> str:
    """Return which tag, or whether the name, says one of the words; "" if nothing does."""
    for tag in listing.tags:
        if said.by(tag, is_tag=True):
            return f"its tag {tag[:40]!r} marks it"
    return "its name marks it" if said.by(listing.name) else ""


class _Said:
    """Whether a text says one of some words or phrases, and does not deny it."""

    def __init__(self, words: Collection[str], tags: Collection[str], innocent: Collection[str]):
        self._words, self._innocent = _any_of(words), _any_of(innocent)
        self._tags = frozenset(tags)

    def by(self, text: str, is_tag: bool = False) -> bool:
        """Tell whether a tag or a name says it."""
        text = text[:MOST_CHARACTERS].replace("\U0001f51e", " nsfw ")
        return any(self._says(one, is_tag) for one in {text, with_letters(text)})

    def _says(self, text: str, is_tag: bool) -> bool:
        told = " ".join(spoken_words(text))
        if is_tag and told in self._tags:
            return True
        if not self._words.search(told):
            return False
        told = self._innocent.sub("-", MUSIC.sub("-", told))
        return any(not _is_denied(told, found) for found in self._words.finditer(told))


@lru_cache(maxsize=8)
def _sayings(config: ContentConfig) -> tuple[_Said, _Said, _Said]:
    """Return what says minors, real people, and what is not safe for work."""
    lists = (
        (config.minors_words, config.minors_tags),
        (config.real_people_words, config.real_people_tags),
        (config.explicit_words, config.explicit_tags),
    )
    minors, people, explicit = (_Said(words, tags, config.innocent) for words, tags in lists)
    return minors, people, explicit


def _any_of(phrases: Collection[str]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, phrases), key=len, reverse=True)
    return re.compile(rf"(?<!\S)(?:{'|'.join(longest_first) or '(?!)'})(?!\S)")


def _is_denied(told: str, found: re.Match[str]) -> bool:
    """Tell whether what stands before a word, or behind it, denies it."""
    if told[found.end() :].split(maxsplit=1)[:1] == ["free"]:
        return True
    before = told[: found.start()].split()
    while before and before[-1] in BETWEEN:
        before.pop()
    return bool(before) and before[-1] in DENIALS
