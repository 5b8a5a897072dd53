"""Which retrieved experts are worth merging? Not the irrelevant ones, and not two for one job.

The paper's second stage of selection (https://arxiv.org/abs/2603.20470, section 3.2), without a
language model: retrieval also finds "red feathered flamingos" for "a woman with red hair", and
several experts with one skill. Both make the merge worse.
"""

from collections import defaultdict
from collections.abc import Sequence

from pydantic import BaseModel, Field

from diffgraph.agents.agent import Candidate, Request, Verdict
from diffgraph.agents.nouns import Nouns
from diffgraph.agents.words import content_stems, content_words, stem


class ReviewConfig(BaseModel, frozen=True):
    """How strict the review is. Similarities are as retrieval gives them, at most 1."""

    least_similarity: float = Field(default=0.30, description="below it nothing is relevant")
    least_without_words: float = Field(
        default=0.45, description="the same, for an expert that shares no word with what was asked"
    )
    least_without_noun: float = Field(
        default=0.60,
        description="the same, for an adapter that was found by the subject and does not name it",
    )
    share_of_best: float = Field(default=0.75, description="of the best expert for the same part")
    alike: float = Field(
        default=0.9, description="share of the best similarity that is no worse, only worded so"
    )
    same_skill: float = Field(
        default=0.6, description="share of words two descriptions have in common: one job"
    )


def review(
    request: Request, candidates: Sequence[Candidate], config: ReviewConfig, nouns: Nouns
) -> tuple[Verdict, ...]:
    """Return one verdict a candidate, in the order given."""
    by_query: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, candidate in enumerate(candidates):
        by_query[candidate.kind, candidate.query].append(place)
    verdicts: dict[int, Verdict] = {}
    kept: list[Candidate] = []
    # checkpoints first: what a checkpoint does for a style needs no adapter besides
    for (_, _), places in sorted(
        by_query.items(),
        key=lambda group: (group[0][0], -max(candidates[i].similarity for i in group[1])),
    ):
        ranked = _ranked(request, candidates, places, config, nouns)
        for place, reason, is_kept in _one_query(
            request, [candidates[i] for i in ranked], ranked, kept, config
        ):
            verdicts[place] = Verdict(ref=candidates[place].ref, kept=is_kept, reason=reason)
    return tuple(verdicts[place] for place in range(len(candidates)))


def without_repeats(
    candidates: Sequence[Candidate],
    verdicts: Sequence[Verdict],
    config: ReviewConfig | None = None,
) -> tuple[Verdict, ...]:
    """Return verdicts in which of several kept experts with one skill the nearest stays.

    Args:
        candidates: what was found.
        verdicts: one a candidate, each given without a look at the others.
        config: which descriptions are of one skill.
    """
    config = config or ReviewConfig()
    found = list(verdicts)
    skills = [content_stems(candidate.text) for candidate in candidates]
    kept: list[int] = []
    for place in sorted(range(len(found)), key=lambda i: (-candidates[i].similarity, i)):
        if not found[place].kept:
            continue
        candidate = candidates[place]
        rivals = (i for i in kept if candidates[i].kind == candidate.kind)
        for other in rivals:
            is_another = candidates[other].ref != candidate.ref
            if is_another and _is_one_skill(skills[other], skills[place], config):
                reason = f"same skill as {candidates[other].name}"
                found[place] = Verdict(ref=candidate.ref, kept=False, reason=reason)
                break
        else:
            kept.append(place)
    return tuple(found)


def _is_one_skill(some: frozenset[str], others: frozenset[str], config: ReviewConfig) -> bool:
    return bool(some) and len(some & others) >= config.same_skill * len(some | others)


def _ranked(
    request: Request,
    candidates: Sequence[Candidate],
    places: Sequence[int],
    config: ReviewConfig,
    nouns: Nouns,
) -> list[int]:
    """Return the places of the candidates for one part of the request, the best first.

    "Animal" is no word of the prompt, but stands for a subject that no page names. Of experts that
    are about it alike, the one whose page names more animals more likely knows this one, too.
    """
    ranked = sorted(places, key=lambda i: (-candidates[i].similarity, candidates[i].ref))
    best = candidates[ranked[0]]
    if best.query not in request.broader:
        return ranked
    alike = [i for i in ranked if candidates[i].similarity >= config.alike * best.similarity]
    alike.sort(key=lambda i: -_breadth(best.query, candidates[i], nouns))  # a stable sort
    return [*alike, *ranked[len(alike) :]]


def _breadth(kind: str, candidate: Candidate, nouns: Nouns) -> int:
    """Return how many different things of a kind a candidate's page names."""
    found = content_words(f"{candidate.name} {candidate.text}")
    return len({stem(word) for word in found if kind in nouns.kinds_of(word)})


def _one_query(
    request: Request,
    ranked: Sequence[Candidate],
    places: Sequence[int],
    kept: list[Candidate],
    config: ReviewConfig,
) -> list[tuple[int, str, bool]]:
    """Judge the candidates of one part of the request, best first; add the kept ones to `kept`."""
    results: list[tuple[int, str, bool]] = []
    best = max(candidate.similarity for candidate in ranked)
    covered: frozenset[str] = frozenset()
    for place, candidate in zip(places, ranked, strict=True):
        asked = content_stems(candidate.query)
        shared = asked & content_stems(f"{candidate.name} {candidate.text}")
        reason = _why_irrelevant(candidate, bool(shared), best, config)
        if reason is None and candidate.query.lower() not in request.attributes:
            reason = _why_no_subject(candidate, shared, config)
        if reason is None:
            reason = _why_redundant(candidate, shared - covered, kept, config)
        if reason is not None:
            results.append((place, reason, False))
            continue
        results.append((place, _why_kept(candidate, shared), True))
        kept.append(candidate)
        covered |= shared
    return results


def _why_irrelevant(
    candidate: Candidate, has_words: bool, best: float, config: ReviewConfig
) -> str | None:
    least = config.least_similarity if has_words else config.least_without_words
    if candidate.similarity < least:
        return f"not about {candidate.query!r} (similarity {candidate.similarity:.2f})"
    if candidate.similarity < config.share_of_best * best:
        return (
            f"far less about {candidate.query!r} than the best"
            f" ({candidate.similarity:.2f} < {best:.2f})"
        )
    return None


def _why_no_subject(
    candidate: Candidate, shared: frozenset[str], config: ReviewConfig
) -> str | None:
    """Return why an adapter that was found by the subject does not draw it.

    "Fire glow" shares a word with "fire engine", and "old photograph" one with "old woman": what
    counts is the noun, the last word. A checkpoint may know a subject that its page does not name.
    """
    named = content_words(candidate.query)
    if candidate.kind == "checkpoint" or not named or stem(named[-1]) in shared:
        return None
    if candidate.similarity >= config.least_without_noun:
        return None
    return f"its page does not speak of {named[-1]!r}, the subject asked for"


def _why_redundant(
    candidate: Candidate, adds: frozenset[str], kept: Sequence[Candidate], config: ReviewConfig
) -> str | None:
    """Return why a relevant candidate adds nothing to those kept before it."""
    skills = content_stems(candidate.text)
    for other in kept:
        if other.ref == candidate.ref:
            continue
        serves_it_too = other.query == candidate.query
        is_better = other.similarity > candidate.similarity
        if other.kind != candidate.kind:
            if serves_it_too and is_better:
                return f"{other.name} already serves {candidate.query!r}, and better"
            continue
        if serves_it_too and not adds:
            if is_better:
                return f"{other.name} already serves {candidate.query!r}, and better"
            return f"{other.name} serves {candidate.query!r} as well and knows more of its kind"
        if _is_one_skill(skills, content_stems(other.text), config):
            return f"same skill as {other.name}"
    return None


def _why_kept(candidate: Candidate, shared: frozenset[str]) -> str:
    named = [word for word in content_words(candidate.query) if stem(word) in shared]
    words = f", its page names {', '.join(named)}" if named else ""
    return f"fits {candidate.query!r} (similarity {candidate.similarity:.2f}{words})"
