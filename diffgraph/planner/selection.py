"""Which experts does a prompt need? Retrieval from the graph, then the agent's review.

The paper's expert selection agent (https://arxiv.org/abs/2603.20470, section 3.2): the prompt's
summary finds K1 checkpoints, each of its attributes finds K2 PEFT experts, and the agent drops the
irrelevant and the redundant ones. How many remain is the agent's choice, none included.
"""

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from diffgraph.agents.agent import Agent, Candidate, Request, Verdict
from diffgraph.agents.prompts import cleaned, tagged
from diffgraph.agents.words import plain
from diffgraph.experts.expert import Kind
from diffgraph.graph.embedding import TextEmbedder
from diffgraph.planner.choices import NO_CHOICES, Choices
from diffgraph.planner.retrieval import ExpertIndex, ExpertNodes

log = logging.getLogger(__name__)

LONGEST_NAME = 80
SERVES_AS_WELL = 0.75  # of the best similarity to a part: a wanted expert is taken to serve it
UNWANTED = "not wanted"
WORDS_MATTER = 0.15  # in units of similarity, when it is decided which part a checkpoint is for


class SelectionConfig(BaseModel, frozen=True, extra="forbid"):
    """How widely candidates are searched, and how many experts may be merged."""

    k1: int = Field(default=3, ge=0, description="checkpoints retrieved for the summary")
    k2: int = Field(default=3, ge=0, description="PEFT experts retrieved for each attribute")
    k3: int = Field(
        default=5, ge=0, description="experts of either kind retrieved for the whole prompt"
    )
    most: int = Field(default=8, ge=0, description="experts that are chosen at most")
    words_count: float = Field(
        default=0.6, ge=0, le=1, description="how much shared words add to the embedding's cosine"
    )


class Choice(BaseModel, frozen=True):
    """An expert that was retrieved: chosen or dropped, for which part of the prompt, and why."""

    ref: str
    kind: Kind
    name: str
    query: str
    similarity: float
    reason: str
    strength: float | None = Field(default=None, description="the coefficient that a person gave")


class Selection(BaseModel, frozen=True):
    """The experts a prompt needs, with all that led to them."""

    prompt: str
    summary: str
    attributes: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    agent: str = ""
    note: str = ""
    """Why another agent read the prompt than was asked."""
    notes: tuple[str, ...] = ()
    """What a person asked for and does not get, a line each."""
    candidates: tuple[Candidate, ...] = ()
    experts: tuple[Choice, ...] = ()
    dropped: tuple[Choice, ...] = ()
    uncalibrated: tuple[str, ...] = ()
    """Those of the chosen that nobody has measured: they are merged as their pages say."""

    @property
    def refs(self) -> tuple[str, ...]:
        """The chosen experts, checkpoints first, the most similar first."""
        return tuple(choice.ref for choice in self.experts)

    @property
    def strengths(self) -> dict[str, float]:
        """The final coefficients that a person gave, by reference."""
        return {one.ref: one.strength for one in self.experts if one.strength is not None}

    def lines(self) -> tuple[str, ...]:
        """Return the explanation, one line a fact, for a terminal."""
        asked = f"asked for: {self.summary}"
        if self.attributes:
            asked += f"; in particular: {', '.join(self.attributes)}"
        head = [asked]
        if self.note:
            head.append(f"read by the {self.note}")
        head.extend(self.notes)
        if self.unknown_words:
            head.append(f"unknown words: {', '.join(self.unknown_words)}")
        if self.uncalibrated:
            waiting = [c.name for c in self.experts if c.ref in self.uncalibrated]
            some = "" if len(waiting) == len(self.experts) else f" ({', '.join(waiting)})"
            head.append(f"not calibrated yet{some}: strengths are the pages'")
        if not self.experts:
            head.append("no expert fits: the base model draws alone")
        chosen = [f"+ {c.name} ({c.kind}, {c.ref}): {c.reason}" for c in self.experts]
        dropped = [f"- {c.name} ({c.kind}, {c.ref}): {c.reason}" for c in self.dropped]
        return (*head, *chosen, *dropped)


def select(
    prompt: str,
    nodes: ExpertNodes,
    agent: Agent,
    embedder: TextEmbedder,
    config: SelectionConfig | None = None,
    exclusions: Mapping[str, str] | None = None,
    choices: Choices = NO_CHOICES,
) -> Selection:
    """Return the experts that the prompt needs.

    Args:
        prompt: what to draw.
        nodes: the experts to choose from: mergeable, of one family.
        agent: parses the prompt and reviews what was retrieved.
        embedder: the one the nodes were embedded with.
        config: how widely to search.
        exclusions: why some experts must not be chosen, by reference: what calibration proved.
        choices: what a person decides instead, by reference.
    """
    config = config or SelectionConfig()
    request = agent.parse(prompt)
    candidates = retrieve(request, nodes, embedder, config)
    wanted = dict(choices.experts)
    bad = {ref: why for ref, why in (exclusions or {}).items() if ref not in wanted}
    bad |= dict.fromkeys(choices.without, UNWANTED)
    # the agent reads pages and knows no scores: it is not asked about who is proved to be bad
    usable = tuple(one for one in candidates if one.ref not in bad and not choices.only)
    usable = _nearest_of_all(usable, wanted)
    verdicts = agent.review(request, usable)
    chosen, dropped = _decided(usable, verdicts, config.most)
    chosen, dropped = _obeyed(choices, nodes, chosen, dropped, config.most)
    proved = {
        candidate.ref: _choice(candidate, bad[candidate.ref])
        for candidate in candidates
        if candidate.ref in bad
    }
    unsought = [ref for ref in choices.without if ref in nodes.refs and ref not in proved]
    proved |= {ref: _of_nobody(nodes, ref, UNWANTED) for ref in unsought}
    return Selection(
        prompt=prompt,
        summary=request.summary,
        attributes=request.attributes,
        unknown_words=request.unknown_words,
        agent=agent.name,
        note=request.note,
        notes=(*choices.notes, *_unserved(request, usable, verdicts, chosen)),
        candidates=candidates,
        experts=chosen,
        dropped=_ordered((*dropped, *proved.values())),
    )


def retrieve(
    request: Request, nodes: ExpertNodes, embedder: TextEmbedder, config: SelectionConfig
) -> tuple[Candidate, ...]:
    """Return the checkpoints nearest to the summary, the PEFT experts nearest to attributes.

    A checkpoint is for a subject or for a style, seldom for both, so the summary is also asked
    part by part, and by the broader words for its subject; what is nearest to any of them counts.
    Experts that are relevant to the prompt as a whole come on top: a trigger word need be no
    attribute to name its expert.
    """
    if not len(nodes.refs):
        return ()
    index, question = _index_of(nodes), _Question.of(request)
    cosines = index.cosines(embedder.embed(question.queries))
    similar, shares_words = index.similarities(question.queries, cosines, config.words_count)
    asked = question.asked
    # a part that the page names is better evidence than one that only sounds like it
    evidence = similar[:asked] + WORDS_MATTER * shares_words[:asked]

    def found(row: int, place: int) -> Candidate:
        return _candidate(nodes, place, question.queries[row], float(similar[row, place]))

    best_part = evidence.argmax(axis=0)
    candidates = [
        found(int(best_part[place]), place)
        for place in index.nearest("checkpoint", evidence.max(axis=0), config.k1)
    ]
    for row in range(asked, len(question.queries)):
        candidates += [
            found(row, place) for place in index.nearest("peft", similar[row], config.k2)
        ]
    seen = {(candidate.ref, candidate.query) for candidate in candidates}
    for place in _relevant(index, question, cosines, config.k3):
        rows = question.rows_for(nodes.kinds[place])
        best = found(max(rows, key=lambda row: float(similar[row, place])), place)
        if (best.ref, best.query) not in seen:
            candidates.append(best)
    return tuple(candidates)


def rank(
    prompt: str, nodes: ExpertNodes, agent: Agent, embedder: TextEmbedder, count: int
) -> tuple[str, ...]:
    """Return the experts that are most relevant to a whole prompt, of either kind, best first."""
    if not len(nodes.refs):
        return ()
    index, question = _index_of(nodes), _Question.of(agent.parse(prompt))
    cosines = index.cosines(embedder.embed(question.queries))
    return tuple(nodes.refs[row] for row in _relevant(index, question, cosines, count))


def _relevant(
    index: ExpertIndex, question: "_Question", cosines: NDArray[np.float32], count: int
) -> list[int]:
    """Return the rows of the experts most relevant to the whole prompt, best first."""
    said = cosines[question.rows_for("peft")]  # the parts of the prompt itself
    return index.ranked(index.relevance(question.prompt, said), count)


class _Question(NamedTuple):
    """What is looked up for a request."""

    prompt: str  # all of it, and what it names in tags
    parts: tuple[str, ...]  # of the summary: what checkpoints are asked for
    broader: tuple[str, ...]  # words for the subject: no PEFT expert draws animals as such
    attributes: tuple[str, ...]  # what PEFT experts are asked for

    @classmethod
    def of(cls, request: Request) -> "_Question":
        parts = dict.fromkeys(part.strip() for part in request.summary.split(","))
        parts.pop("", None)
        return cls(
            " ".join((cleaned(request.prompt) or request.summary, *tagged(request.prompt))),
            tuple(parts),
            tuple(word for word in dict.fromkeys(request.broader) if word not in parts),
            request.attributes,
        )

    @property
    def asked(self) -> int:
        """How many of the queries, from the first, are asked of checkpoints."""
        return len(self.parts) + len(self.broader)

    @property
    def queries(self) -> tuple[str, ...]:
        return (*self.parts, *self.broader, *self.attributes)

    def rows_for(self, kind: Kind) -> list[int]:
        """Return which queries an expert of a kind may serve."""
        served = range(self.asked if kind == "checkpoint" else len(self.queries))
        unfit = range(len(self.parts), self.asked) if kind == "peft" else ()
        return [row for row in served if row not in unfit]


def _candidate(nodes: ExpertNodes, place: int, query: str, similarity: float) -> Candidate:
    text = nodes.texts[place]
    written = (plain(word, LONGEST_NAME) for word in nodes.trigger_words[place])
    unsaid = [word for word in written if word not in text]
    return Candidate(
        ref=nodes.refs[place],
        kind=nodes.kinds[place],
        name=plain(nodes.names[place], LONGEST_NAME),  # as its page gives it
        text=", ".join((text, *unsaid)),
        query=query,
        similarity=round(similarity, 4),
    )


def _decided(
    candidates: Sequence[Candidate], verdicts: Sequence[Verdict], most: int
) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    """Return the chosen and the dropped experts, each once, from one verdict a candidate."""
    shown = {candidate.ref for candidate in candidates}
    invented = sorted({verdict.ref for verdict in verdicts} - shown)
    if invented:
        log.warning("the agent judged experts it was not shown; ignored: %s", invented[:5])
    kept: dict[str, Choice] = {}
    left: dict[str, Choice] = {}
    for place, candidate in enumerate(candidates):
        verdict = _verdict_on(candidate, place, verdicts)
        choice = _choice(candidate, verdict.reason if verdict else "the agent gave no verdict")
        pile = kept if verdict and verdict.kept else left
        other = pile.get(choice.ref)
        if other is None or other.similarity < choice.similarity:
            pile[choice.ref] = choice
    dropped = [choice for ref, choice in left.items() if ref not in kept]
    ranked = sorted(kept.values(), key=lambda c: (-c.similarity, c.ref))
    dropped += [
        choice.model_copy(update={"reason": f"fits, but {most} others fit better"})
        for choice in ranked[most:]
    ]
    return _ordered(ranked[:most]), _ordered(dropped)


def _nearest_of_all(
    candidates: Sequence[Candidate], wanted: Collection[str]
) -> tuple[Candidate, ...]:
    """Return candidates of which a wanted one is the nearest to each part that it serves.

    So nobody else is chosen for the same job, whatever a review goes by.
    """
    best: dict[str, float] = {}
    for one in candidates:
        best[one.query] = max(best.get(one.query, 0.0), one.similarity)
    return tuple(
        one.model_copy(update={"similarity": min(1.0, best[one.query] + 1e-4)})
        if one.ref in wanted and one.similarity >= SERVES_AS_WELL * best[one.query]
        else one
        for one in candidates
    )


def _unserved(
    request: Request,
    candidates: Sequence[Candidate],
    verdicts: Sequence[Verdict],
    chosen: Sequence[Choice],
) -> tuple[str, ...]:
    """Return a line on what was asked for and none of the chosen experts is for."""
    refs = {choice.ref for choice in chosen}
    found = ((one, _verdict_on(one, place, verdicts)) for place, one in enumerate(candidates))
    kept = {one.query for one, verdict in found if verdict and verdict.kept and one.ref in refs}
    served = kept | {choice.query for choice in chosen}
    left = [attribute for attribute in request.attributes if attribute not in served]
    return (f"no expert is for: {', '.join(left)}",) if left and chosen else ()


def _obeyed(
    choices: Choices,
    nodes: ExpertNodes,
    chosen: tuple[Choice, ...],
    dropped: tuple[Choice, ...],
    most: int,
) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    """Return chosen and dropped experts with those among the chosen that a person wants."""
    if not choices.experts:
        return chosen, dropped
    found = {choice.ref: choice for choice in (*dropped, *chosen)}
    wanted = {}
    for ref, strength in choices.experts:
        reason = "asked for" if strength is None else f"asked for, at {strength:g}"
        choice = found.get(ref) or _of_nobody(nodes, ref, reason)
        wanted[ref] = choice.model_copy(update={"reason": reason, "strength": strength})
    others = sorted(
        (choice for choice in chosen if choice.ref not in wanted),
        key=lambda choice: (-choice.similarity, choice.ref),
    )
    room = max(0, most - len(wanted))
    left = [
        choice.model_copy(update={"reason": f"fits, but no more than {most} are merged"})
        for choice in others[room:]
    ]
    unchosen = [choice for choice in dropped if choice.ref not in wanted]
    return _ordered((*wanted.values(), *others[:room])), _ordered((*unchosen, *left))


def _of_nobody(nodes: ExpertNodes, ref: str, reason: str) -> Choice:
    """Return the choice of an expert that was found for no part of the prompt."""
    place = nodes.refs.index(ref)
    name = plain(nodes.names[place], LONGEST_NAME)
    return Choice(
        ref=ref, kind=nodes.kinds[place], name=name, query="", similarity=0.0, reason=reason
    )


def _choice(candidate: Candidate, reason: str) -> Choice:
    return Choice(
        ref=candidate.ref,
        kind=candidate.kind,
        name=candidate.name,
        query=candidate.query,
        similarity=candidate.similarity,
        reason=reason,
    )


def _verdict_on(candidate: Candidate, place: int, verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the verdict at the candidate's place, or the first that names it."""
    if place < len(verdicts) and verdicts[place].ref == candidate.ref:
        return verdicts[place]
    return next((verdict for verdict in verdicts if verdict.ref == candidate.ref), None)


def _ordered(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    return tuple(sorted(choices, key=lambda c: (c.kind, -c.similarity, c.ref)))


_LATEST: list[ExpertIndex] = []
_LATEST_LOCK = threading.Lock()


def _index_of(nodes: ExpertNodes) -> ExpertIndex:
    """Return the index of these nodes; that of the last nodes asked for is kept."""
    with _LATEST_LOCK:
        if not (_LATEST and _LATEST[0].nodes is nodes):
            _LATEST[:] = [ExpertIndex(nodes)]
        return _LATEST[0]
