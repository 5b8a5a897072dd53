"""Who answers when no language model is asked? Word lists: free, instant, always the same."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from diffgraph.agents.agent import Candidate, Request, Verdict
from diffgraph.agents.pages import (
    descriptive_sentences,
    is_an_order,
    page_lines,
    recommended_strength,
)
from diffgraph.agents.prompts import (
    LONGEST_PROMPT,
    attributes_of,
    cleaned,
    is_overall_style,
    phrases,
)
from diffgraph.agents.reviewing import ReviewConfig, review
from diffgraph.agents.things import kinds_of
from diffgraph.agents.words import content_stems, content_words, plain, stem
from diffgraph.errors import EmptyPrompt, UnknownWords
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Listing

LONGEST_CARD = 600  # characters of summary and skills together
LONGEST_SUMMARY = 380
LONGEST_SKILL = 48
MOST_SKILLS = 16
MOST_EXAMPLES = 12
SHARED_BY = 0.5  # of a page's example prompts: then it is the expert's doing, not the subject's

_NAME_NOISE = re.compile(
    r"\[[^\]]*\]|\([^)]*\)|\bv(?:er(?:sion)?)?\.?\s*\d[\w.]*|\b(?:lora|locon|lycoris|loha|lokr|dora|checkpoint|model)\b",
    re.I,
)
_GENERIC_TAGS = frozenset(
    """
    style styles concept concepts base_model tool tools character celebrity clothing
    background object objects animal emoji emoji64 emojis icon icons lora locon lycoris checkpoint
    art artwork design other misc effect effects treatment enhancer quality detail details
    """.split()
)


class OfflineAgent:
    """Reads pages and prompts with closed lists of words instead of a language model.

    Args:
        known_words: the words the family was trained with, in lower case. When given, a prompt of
        which no
            content word is known is refused.
        config: how strict the review is.
    """

    name = "offline"
    model = ""
    instruction_version = "2"

    def __init__(
        self, known_words: frozenset[str] | None = None, config: ReviewConfig | None = None
    ) -> None:
        self._config = config or ReviewConfig()
        self._known: frozenset[str] | None = None
        if known_words is not None:
            self._known = frozenset(map(str.lower, known_words)) | frozenset(map(stem, known_words))

    def describe(self, listing: Listing) -> ExpertCard:
        """Return what the page's expert is good for, whatever else the page says."""
        name = _readable_name(listing.name)
        triggers = _short_texts(listing.trigger_words)
        examples = _examples(listing)
        told = [
            sentence
            for sentence in descriptive_sentences(listing.description)
            if not content_stems(sentence) <= content_stems(name)
        ]
        summary = ". ".join(part.rstrip(".") for part in (name, *told) if part)
        summary = _shortened(summary, LONGEST_SUMMARY) or "An expert whose page says nothing"
        tags = [
            tag
            for tag in _short_texts(listing.tags)
            if tag.lower().replace(" ", "_") not in _GENERIC_TAGS
        ]
        shown = (
            _subjects(examples, triggers)
            if listing.type.lower() == "checkpoint"
            else _shared_attributes(examples)
        )
        skills = _distinct([*map(_spoken, triggers), *tags, *shown])
        room = LONGEST_CARD - len(summary) - 1
        return ExpertCard(
            summary=summary,
            skills=_fitting(skills, room),
            trigger_words=triggers,
            recommended_strength=_strength(listing),
            agent=self.name,
            model=self.model,
            instruction_version=self.instruction_version,
        )

    def parse(self, prompt: str) -> Request:
        """Return the prompt's subject with its overall style, and its attributes.

        Raises:
            EmptyPrompt: nothing to draw is left once weights, tags and negations are gone.
            UnknownWords: a vocabulary was given and holds none of the prompt's words.
        """
        text = cleaned(prompt)
        parts = phrases(text)
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
            broader=kinds_of(parts[0]),
            unknown_words=self._unknown(content_words(" , ".join(parts))),
        )

    def review(self, request: Request, candidates: Sequence[Candidate]) -> tuple[Verdict, ...]:
        """Return one verdict a candidate: the irrelevant and the redundant are dropped."""
        return review(request, candidates, self._config)

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


def _readable_name(name: str) -> str:
    """Return a page's title without version and format, `PencilSketch_v2` as `Pencil Sketch`."""
    text = plain(name, 200).replace("_", " ")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = " ".join(_NAME_NOISE.sub(" ", text).split()).strip(" -|:/")
    return "" if is_an_order(text) else text[:80]


def _short_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts that are short enough to be a word or phrase and do not speak to the reader."""
    clean = (plain(text, 200) for text in list(texts)[:64])
    return tuple(
        dict.fromkeys(t for t in clean if t and len(t) <= LONGEST_SKILL and not is_an_order(t))
    )


def _examples(listing: Listing) -> list[tuple[str, ...]]:
    """Return what the example prompts are made of, the subject of each first."""
    honest = (
        prompt
        for prompt in listing.example_prompts[:MOST_EXAMPLES]
        if not is_an_order(plain(prompt, LONGEST_PROMPT))
    )
    return [parts for prompt in honest if (parts := phrases(cleaned(prompt)))]


def _spoken(trigger: str) -> str:
    """Return a trigger word as one would say it: `pixel_art_style` → `pixel art style`."""
    return " ".join(re.sub(r"[_\-]+", " ", trigger).split())


def _shared_attributes(examples: Sequence[tuple[str, ...]]) -> list[str]:
    """Return what most example prompts ask for besides their subject."""
    counts: Counter[frozenset[str]] = Counter()
    wordings: dict[frozenset[str], str] = {}
    for parts in examples:
        for attribute in attributes_of(parts):
            stems = content_stems(attribute)
            if stems and len(attribute) <= LONGEST_SKILL and not is_an_order(attribute):
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
        s for s in subjects if len(s) <= LONGEST_SKILL and s not in usual and not is_an_order(s)
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


def _strength(listing: Listing) -> float:
    """Return what the page recommends, else what its example prompts use, else 1."""
    advised = recommended_strength("\n".join(page_lines(listing.description)))
    if advised is not None:
        return advised
    used = [
        recommended_strength(" ".join(re.findall(r"<[^<>]{0,120}>", p)))
        for p in listing.example_prompts
    ]
    found = sorted(value for value in used if value is not None)
    return found[len(found) // 2] if found else 1.0
