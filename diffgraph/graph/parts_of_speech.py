"""Which words of a prompt are nouns, adjectives and prepositions? Lists and endings, no model.

Prepositions are a closed class, so their list is exact. Adjectives are found by a list and by
their endings, and everything with content that is neither an adjective, an adverb nor a common
verb counts as a noun: in prompts, which hardly hold verbs, that is nearly always right.
"""

from dataclasses import dataclass

from diffgraph.agents.words import FUNCTION_WORDS, stem, words

SPATIAL_PREPOSITIONS = frozenset(
    """
    above across against along alongside amid among around at atop before behind below beneath
    beside between beyond by down in inside into near off on onto opposite out outside over past
    round surrounding through throughout to toward towards under underneath up upon within
    """.split()
)
PREPOSITIONS = SPATIAL_PREPOSITIONS | frozenset(
    """
    about after as aside barring besides circa concerning considering despite during except
    excluding following for from including like minus notwithstanding of pending per plus regarding
    save since than till unlike until versus via with without
    """.split()
)

_ADJECTIVES = frozenset(
    """
    red orange yellow green blue purple violet pink brown black white gray grey gold golden silver
    teal turquoise beige crimson scarlet cyan magenta navy big small large little tiny huge giant
    tall short long wide narrow thick thin fat slim old young new ancient modern vintage retro
    antique hot cold warm cool icy wet dry dark light bright pale deep soft hard rough smooth sharp
    flat round square straight curly wavy fluffy furry hairy happy sad angry sleepy scared proud
    shy brave calm crazy cute pretty beautiful ugly cheerful grumpy silly funny lonely lovely
    friendly wild tame loud quiet fast slow heavy empty full open closed clean dirty shiny shady
    dusty rusty rainy snowy sunny cloudy foggy misty stormy windy starry dreamy blurry cozy cosy
    spooky creepy magic royal rich poor raw ripe fresh sweet sour spicy salty bitter juicy creamy
    crispy wooden metal plastic stone glass leather neon pastel sepia noir monochrome abstract
    minimal detailed simple fancy plain bold high low single double left right upside polka sleek
    mini mega cyber solid dotted dizzy sick tired evil good bad
    """.split()
)
_ADJECTIVE_ENDINGS = (
    "ful", "less", "ous", "ish", "ive", "able", "ible", "esque", "istic", "ated", "ured",
    "coloured", "colored", "toned", "shaped", "styled", "like",
)  # fmt: skip
_VERBS = frozenset(
    """
    wearing holding sitting standing running walking flying eating drinking playing looking riding
    swimming dancing sleeping jumping driving reading wear hold sit stand run walk fly eat play
    look ride swim dance sleep jump drive read wears holds sits stands runs walks flies eats plays
    looks rides
    """.split()
)


@dataclass(frozen=True)
class TaggedText:
    """The distinct stems of a text by class, and its length in words."""

    nouns: frozenset[str]
    adjectives: frozenset[str]
    prepositions: frozenset[str]
    length: int

    @property
    def features(self) -> dict[str, float]:
        """Return how many of each class there are; a spatial preposition counts twice."""
        spatial = len(self.prepositions & SPATIAL_PREPOSITIONS)
        return {
            "nouns": float(len(self.nouns)),
            "adjectives": float(len(self.adjectives)),
            "prepositions": float(len(self.prepositions) + spatial),
            "words": float(self.length),
        }

    @property
    def terms(self) -> frozenset[str]:
        """Return all stems, marked with their class."""
        return frozenset(
            [f"n:{noun}" for noun in self.nouns]
            + [f"a:{adjective}" for adjective in self.adjectives]
            + [f"p:{preposition}" for preposition in self.prepositions]
        )


def tag(text: str) -> TaggedText:
    """Return the classes of a text's words."""
    found = words(text)
    nouns: set[str] = set()
    adjectives: set[str] = set()
    prepositions: set[str] = set()
    for place, word in enumerate(found):
        before_another = place + 1 < len(found) and found[place + 1] not in FUNCTION_WORDS
        if word in PREPOSITIONS:
            prepositions.add(word)
        elif word in FUNCTION_WORDS or word.isdigit() or word in _VERBS or _is_adverb(word):
            continue
        elif _is_adjective(word, before_another):
            adjectives.add(stem(word))
        else:
            nouns.add(stem(word))
    return TaggedText(frozenset(nouns), frozenset(adjectives), frozenset(prepositions), len(found))


def _is_adverb(word: str) -> bool:
    return (
        len(word) > 4
        and word.endswith("ly")
        and word not in _ADJECTIVES | {"family", "jelly", "lily"}
    )


def _is_adjective(word: str, before_another: bool) -> bool:
    if word in _ADJECTIVES:
        return True
    if len(word) > 5 and word.endswith(_ADJECTIVE_ENDINGS):
        return True
    # a participle describes what follows it: "smiling robot", "striped background"
    return before_another and len(word) > 5 and word.endswith(("ing", "ed"))
