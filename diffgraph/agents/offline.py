"""The agent without a language model: word lists, free, instant, always the same."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from diffgraph.agents.agent import Candidate, Request, Verdict
from diffgraph.agents.injections import is_injection
from diffgraph.agents.nouns import Nouns
from diffgraph.agents.pages import Sentence, descriptive_sentences, tidy
from diffgraph.agents.prompts import (
    LONGEST_PROMPT,
    attributes_of,
    cleaned,
    is_overall_style,
    phrases,
)
from diffgraph.agents.reviewing import ReviewConfig, review
from diffgraph.agents.strengths import strength_of
from diffgraph.agents.titles import is_opaque, names_a_skill, readable_name, spoken
from diffgraph.agents.words import content_stems, content_words, plain, stem
from diffgraph.errors import EmptyPrompt, InputError, UnknownWords
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import THIN, Listing
from diffgraph.families.vocabulary import Vocabulary

LONGEST_CARD = 600  # characters of summary and skills together
LONGEST_SUMMARY = 380
LONGEST_SKILL = 48
MOST_SKILLS = 16
MOST_EXAMPLES = 12
SHARED_BY = 0.5  # of a page's example prompts: then it is the expert's doing, not the subject's


class OfflineAgent:
    """Reads pages and prompts with closed lists of words instead of a language model.

    Args:
        vocabulary: the family's words. If it says which are known, a prompt of which no content
            word is known is refused. By default any may be.
        config: how strict the review is.
    """

    name = "offline"
    model = ""
    instruction_version = "3"
    pages_together = 500

    def __init__(
        self, vocabulary: Vocabulary | None = None, config: ReviewConfig | None = None
    ) -> None:
        vocabulary = vocabulary or Vocabulary()
        self._config = config or ReviewConfig()
        self._nouns = Nouns(vocabulary.nouns)
        self._known: frozenset[str] | None = None
        if (known := vocabulary.known) is not None:
            self._known = frozenset(map(str.lower, known)) | frozenset(map(stem, known))

    def prepare(self, listings: Sequence[Listing]) -> None:
        """Do nothing: every page takes a few milliseconds."""

    def describe(self, listing: Listing) -> ExpertCard:
        """Return what the page's expert is good for, whatever else the page says."""
        name = readable_name(listing.name)
        triggers = short_texts(listing.trigger_words)
        told = _telling(descriptive_sentences(listing.description, self._nouns), name)
        summary = ". ".join(part.rstrip(". ") for part in (name, *told) if part)
        summary = _shortened(summary, LONGEST_SUMMARY) or "An expert whose page says nothing"
        skills = _distinct(_skills(listing, self._nouns, triggers, bool(told)))
        return ExpertCard(
            summary=summary,
            skills=_fitting(skills, LONGEST_CARD - len(summary) - 1),
            trigger_words=triggers,
            recommended_strength=strength_of(listing),
            agent=self.name,
            model=self.model,
            instruction_version=self.instruction_version,
            note=THIN if listing.is_thin else "",
        )

    def parse(self, prompt: str) -> Request:
        """Return the prompt's subject with its overall style, and its attributes.

        Raises:
            InputError: it is no text.
            EmptyPrompt: nothing to draw is left once weights, tags and negations are gone.
            UnknownWords: a vocabulary was given and holds none of the prompt's words.
        """
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise InputError("the prompt holds bytes that are no UTF-8 text, or half a character")
        text = cleaned(prompt)
        parts = phrases(text, self._nouns)
        if not parts:
            raise EmptyPrompt(
                f"the prompt names nothing to draw: {_shortened(plain(prompt), 80)!r}"
            )
        attributes = attributes_of(parts)
        styles = [part for part in attributes if is_overall_style(part) and part not in parts[0]]
        return Request(
            prompt=prompt,
            summary=", ".join([parts[0].lower(), *styles]),
            attributes=attributes,
            broader=self._nouns.kinds_of(parts[0]),
            unknown_words=self._unknown(content_words(" , ".join(parts))),
        )

    def review(self, request: Request, candidates: Sequence[Candidate]) -> tuple[Verdict, ...]:
        """Return one verdict a candidate: the irrelevant and the redundant are dropped."""
        return review(request, candidates, self._config, self._nouns)

    def _unknown(self, found: Sequence[str]) -> tuple[str, ...]:
        if self._known is None:
            return ()
        unknown = tuple(
            word for word in found if word not in self._known and stem(word) not in self._known
        )
        if len(unknown) == len(found):
            named = ", ".join(repr(word) for word in unknown[:8])
            raise UnknownWords(f"no word of the prompt is known to the family: {named}")
        return unknown


def _telling(found: Sequence[Sentence], name: str) -> list[str]:
    """Return the sentences that tell most and fit, in the page's order."""
    news = [s for s in found if not content_stems(s.text) <= content_stems(name)]
    room = LONGEST_SUMMARY - len(name) - 2
    kept: list[int] = []
    for place in sorted(range(len(news)), key=lambda place: (-news[place].told, place)):
        if len(news[place].text) + 2 <= room or not kept:
            kept.append(place)
            room -= len(news[place].text) + 2
    return [news[place].text for place in sorted(kept)]


def _skills(
    listing: Listing, nouns: Nouns, triggers: Sequence[str], is_described: bool
) -> Iterator[str]:
    """Yield what a page names as the expert's skills, the plainest first."""
    is_checkpoint = listing.type.lower() == "checkpoint"
    examples = _examples(listing, nouns)
    spoken_triggers = [spoken(trigger) for trigger in triggers if not is_opaque(trigger)]
    yield from filter(names_a_skill, [*spoken_triggers, *short_texts(listing.tags)])
    if len(examples) > 1 or not is_described:  # one image may show anything
        shown = _subjects(examples, triggers) if is_checkpoint else _shared_attributes(examples)
        yield from filter(names_a_skill, shown)


def short_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts that are short enough to be a word or phrase and do not speak to the reader."""
    clean = (tidy(plain(text.replace("\\", ""), 200)).strip(" ,;") for text in list(texts)[:64])
    return tuple(
        dict.fromkeys(t for t in clean if t and len(t) <= LONGEST_SKILL and not is_injection(t))
    )


def _examples(listing: Listing, nouns: Nouns) -> list[tuple[str, ...]]:
    """Return what the example prompts are made of, the subject of each first."""
    honest = (
        prompt
        for prompt in listing.example_prompts[:MOST_EXAMPLES]
        if not is_injection(plain(prompt, LONGEST_PROMPT))
    )
    return [parts for prompt in honest if (parts := phrases(cleaned(prompt), nouns))]


def _shared_attributes(examples: Sequence[tuple[str, ...]]) -> list[str]:
    """Return what most example prompts ask for besides their subject."""
    counts: Counter[frozenset[str]] = Counter()
    wordings: dict[frozenset[str], str] = {}
    for parts in examples:
        for attribute in attributes_of(parts):
            stems = content_stems(attribute)
            if stems and len(attribute) <= LONGEST_SKILL and not is_injection(attribute):
                counts[stems] += 1
                wordings.setdefault(stems, attribute)
    enough = max(1.0, SHARED_BY * len(examples))
    return [wordings[stems] for stems, count in counts.most_common() if count >= enough]


def _subjects(examples: Sequence[tuple[str, ...]], triggers: Sequence[str]) -> list[str]:
    """Return what the example prompts show: a checkpoint is good at subjects, or at one style."""
    shared = _shared_attributes(examples)
    usual = set(shared) | {trigger.lower() for trigger in triggers}
    subjects = [parts[0].lower() for parts in examples]
    short = [
        s for s in subjects if len(s) <= LONGEST_SKILL and s not in usual and not is_injection(s)
    ]
    return shared + short


def _distinct(skills: Iterable[str]) -> tuple[str, ...]:
    """Return skills that say something new, in order."""
    seen: set[frozenset[str]] = set()
    kept: list[str] = []
    for skill in skills:
        stems = content_stems(skill)
        if stems and stems not in seen:
            seen.add(stems)
            kept.append(skill)
    return tuple(kept[:MOST_SKILLS])


def _fitting(skills: Sequence[str], room: int) -> tuple[str, ...]:
    """Return as many skills as fit, written with commas between them."""
    kept: list[str] = []
    for skill in skills:
        room -= len(skill) + 2
        if room < 0:
            break
        kept.append(skill)
    return tuple(kept)


def _shortened(text: str, limit: int) -> str:
    """Return a text cut at a word, with a mark where it was cut."""
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0].rstrip(" ,;:-") + "…"
