"""What does Claude say an expert is for, a prompt asks for, and which candidates fit?

The paper's two agents (https://arxiv.org/abs/2603.20470, sections 3.1 and 3.2). Claude's words are
data like those of a page: they have to fit a schema, are cleaned again, and may only name what was
shown. If an answer cannot be used even after a repair, the offline agent answers, and the result
says so. Every answer is kept: the same question is never paid for twice.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import SecretStr, ValidationError

from diffgraph.agents.agent import Candidate, Request, Verdict
from diffgraph.agents.answers import Answer, Answers, key_of
from diffgraph.agents.example_images import ReadImage, example_images
from diffgraph.agents.injections import is_injection
from diffgraph.agents.markup import page_lines
from diffgraph.agents.message_batches import MessageBatches
from diffgraph.agents.messages import ClaudeConfig, Messages, UnusableAnswer, read_answer
from diffgraph.agents.offline import LONGEST_CARD, LONGEST_SKILL, OfflineAgent, short_texts
from diffgraph.agents.pages import sentences, tidy
from diffgraph.agents.prompts import LONGEST_PROMPT
from diffgraph.agents.questions import (
    DESCRIBE,
    PARSE,
    REVIEW,
    Described,
    Parsed,
    Question,
    Reviewed,
    ToolInput,
)
from diffgraph.agents.reviewing import without_repeats
from diffgraph.agents.spending import Ledger
from diffgraph.agents.strengths import strength_of
from diffgraph.agents.words import plain
from diffgraph.errors import InputError
from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import page_hash
from diffgraph.families.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anthropic.types import Message

log = logging.getLogger(__name__)

Said = TypeVar("Said", bound=ToolInput)

LONGEST_PAGE_TEXT = 6_000  # characters of a page that are shown
MOST_PROMPTS = 8  # example prompts that are shown
LONGEST_EXAMPLE = 400
LONGEST_REASON = 200
ONLY = "c1"
"""What a candidate is called in the question about it."""
MOST_SKILLS = 12


@dataclass(frozen=True)
class ClaudeAccess:
    """What it takes to ask Claude.

    Args:
        folder: where answers, open batches and the ledger are kept.
        key: the API key.
        model: which model.
        cap: dollars that may be spent within 24 hours; None: without a limit.
        base_url: where the API is; unset: Anthropic's own.
        read_image: reads example images; None: they are not shown.
        config: how patiently, how fast.
    """

    folder: Path
    key: SecretStr | None
    model: str
    cap: float | None = None
    base_url: str | None = None
    read_image: ReadImage | None = None
    config: ClaudeConfig = field(default_factory=ClaudeConfig)


class ClaudeAgent:
    """Asks Claude, and the offline agent where Claude's answer cannot be used.

    Args:
        access: how Claude is reached, and where its answers are kept.
        vocabulary: the family's words; as for `OfflineAgent`.

    Raises:
        InputError: there is no key.
    """

    name = "claude"
    pages_together = 5_000  # a batch may take an hour, however small it is

    def __init__(self, access: ClaudeAccess, vocabulary: Vocabulary | None = None) -> None:
        if access.key is None or not access.key.get_secret_value().strip():
            raise InputError("the agent `claude` needs a key: set ANTHROPIC_API_KEY")
        self.model = access.model
        self.instruction_version = DESCRIBE.version
        self.ledger = Ledger(access.folder, access.cap)
        self._read_image = access.read_image if access.config.pictures else None
        self._messages = Messages(
            access.key, access.model, self.ledger, access.config, access.base_url
        )
        self._answers = Answers(access.folder)
        self._batches = MessageBatches(self._messages, access.folder / "batches", DESCRIBE.name)
        self._offline = OfflineAgent(vocabulary)

    def prepare(self, listings: Sequence[Listing]) -> None:
        """Ask about many pages together; what is answered then costs `describe` nothing.

        Raises:
            SpendingCapReached: not all could be asked; what was answered is kept.
            ServiceError: Claude is not available, or refuses.
        """
        for batch in self._batches.open_batches():
            self._batches.read(batch, self._take)
        left = [page for page in listings if self._answers.find(_describe_key(self, page)) is None]
        config = self._messages.config
        if config.batch_from and len(left) >= config.batch_from:
            questions = ((_describe_key(self, page), self._about(page)) for page in left)
            for batch in self._batches.hand_in(questions):
                self._batches.read(batch, self._take)
            left = [p for p in left if self._answers.find(_describe_key(self, p)) is None]
        with ThreadPoolExecutor(config.at_once, thread_name_prefix="claude") as pool:
            waiting = [pool.submit(self.describe, page) for page in left]
            try:
                for done in waiting:
                    done.result()
            except BaseException:  # Ctrl-C too: what is open is finished and kept, no more is asked
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def describe(self, listing: Listing) -> ExpertCard:
        """Return what the page's expert is good for.

        Raises:
            ServiceError: Claude is not available, or refuses, or would cost too much.
        """
        key = _describe_key(self, listing)
        try:
            said = self._answered(key, Described, lambda: self._about(listing))
            return self._card(listing, said)
        except UnusableAnswer as error:
            log.warning("the offline agent describes %s: %s", listing.ref, error)
            card = self._offline.describe(listing)
            return card.model_copy(update={"note": _instead(self.model, error)})

    def parse(self, prompt: str) -> Request:
        """Return what a prompt asks for, thought through part by part.

        Raises:
            EmptyPrompt: nothing to draw is left once weights, tags and negations are gone.
            UnknownWords: a vocabulary was given and holds none of the prompt's words.
            ServiceError: Claude is not available, or refuses, or would cost too much.
        """
        offline = self._offline.parse(prompt)
        shown = plain(prompt, LONGEST_PROMPT)
        key = key_of(PARSE.name, PARSE.version, self.model, shown)
        try:
            said = self._answered(
                key, Parsed, lambda: Question(PARSE, "request", {"wanted": shown})
            )
        except UnusableAnswer as error:
            log.warning("the offline agent reads a prompt: %s", error)
            return offline.model_copy(update={"note": _instead(self.model, error)})
        return Request(
            prompt=prompt,
            summary=tidy(said.summary) or offline.summary,
            attributes=_distinct([tidy(attribute).lower() for attribute in said.attributes]),
            broader=_distinct([tidy(word).lower() for word in said.broader]),
            unknown_words=offline.unknown_words,
        )

    def review(self, request: Request, candidates: Sequence[Candidate]) -> tuple[Verdict, ...]:
        """Return one verdict a candidate: the irrelevant and the redundant are dropped.

        Each candidate is a question of its own: what its page says can decide about no other. Of
        those that are kept, repetitions are found by comparing words.

        Raises:
            ServiceError: Claude is not available, or refuses, or would cost too much.
        """
        if not candidates:
            return ()
        with ThreadPoolExecutor(self._messages.config.at_once, thread_name_prefix="claude") as pool:
            waiting = [pool.submit(self._judge, request, candidate) for candidate in candidates]
            try:
                verdicts = [done.result() for done in waiting]
            except BaseException:  # Ctrl-C too: no more is asked
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return without_repeats(candidates, verdicts)

    def _judge(self, request: Request, candidate: Candidate) -> Verdict:
        """Return whether one candidate serves the request, whatever the others are."""
        question = _about_candidate(request, candidate)
        key = key_of(REVIEW.name, REVIEW.version, self.model, question.text)
        try:
            (said,) = self._answered(key, Reviewed, lambda: question).verdicts
        except (UnusableAnswer, ValueError) as error:
            log.warning("the offline agent reviews %s: %s", candidate.ref, error)
            (verdict,) = self._offline.review(request, [candidate])
            note = _instead(self.model, error)
            return verdict.model_copy(update={"reason": f"{verdict.reason} [{note}]"})
        reason = tidy(said.reason)[:LONGEST_REASON] or "no reason given"
        return Verdict(ref=candidate.ref, kept=said.kept, reason=reason)

    def _answered(self, key: str, form: type[Said], question: Callable[[], Question]) -> Said:
        """Return the answer that is kept under a key, or else ask and keep it.

        Raises:
            UnusableAnswer: the answer cannot be used, now or when it was asked for.
        """
        known = self._answers.find(key)
        if known is not None:
            if known.said is None:
                raise UnusableAnswer(known.unusable)
            try:
                return form.model_validate(known.said)
            except ValidationError:
                log.warning("a kept answer does not fit and is asked for again: %s", key)
        asked = question()
        try:
            said = self._messages.ask(asked)
        except UnusableAnswer as error:
            self._keep(key, asked, unusable=str(error))
            raise
        self._keep(key, asked, said)
        return form.model_validate(said.model_dump())

    def _keep(
        self, key: str, question: Question, said: ToolInput | None = None, unusable: str = ""
    ) -> None:
        self._answers.keep(
            key,
            Answer(
                kind=question.kind.name,
                model=self.model,
                version=question.kind.version,
                said=said and said.model_dump(mode="json"),
                unusable=unusable,
            ),
        )

    def _take(self, key: str, message: "Message") -> None:
        """Keep a batch's answer if it can be used; if not, the page is asked about again alone."""
        question = Question(DESCRIBE, "page", {})
        try:
            self._keep(key, question, read_answer(question, message))
        except UnusableAnswer as error:
            log.info("a batch's answer cannot be used: %s", error)

    def _about(self, listing: Listing) -> Question:
        """Return the question about a page: its visible text, cleaned, as data."""
        lines = (tidy(line) for line in page_lines(listing.description) if not _orders(line))
        text = "\n".join(filter(None, lines))
        prompts = [tidy(plain(prompt, LONGEST_EXAMPLE)) for prompt in listing.example_prompts]
        return Question(
            DESCRIBE,
            "page",
            {
                "name": tidy(plain(listing.name, 200)) if not is_injection(listing.name) else "",
                "type": plain(listing.type, 40),
                "tags": short_texts(listing.tags),
                "trigger_words": short_texts(listing.trigger_words),
                "text": text[:LONGEST_PAGE_TEXT],
                "example_prompts": [p for p in prompts if p and not is_injection(p)][:MOST_PROMPTS],
            },
            example_images(listing, self._read_image),
        )

    def _card(self, listing: Listing, said: Described) -> ExpertCard:
        """Return Claude's description, cleaned like a page.

        Raises:
            UnusableAnswer: nothing is left of it.
        """
        told = [tidy(part) for part in sentences(plain(said.summary)) if not is_injection(part)]
        summary = " ".join(told)[:LONGEST_CARD]
        if not summary:
            raise UnusableAnswer("the description describes nothing")
        skills: list[str] = []
        room = LONGEST_CARD - len(summary) - 1
        for skill in short_texts(said.skills)[:MOST_SKILLS]:
            room -= len(skill) + 2
            if room >= 0 and len(skill) <= LONGEST_SKILL:
                skills.append(skill)
        advised = said.recommended_strength
        return ExpertCard(
            summary=summary,
            skills=tuple(skills),
            trigger_words=short_texts(listing.trigger_words),
            recommended_strength=strength_of(listing) if advised is None else advised,
            agent=self.name,
            model=self.model,
            instruction_version=self.instruction_version,
        )


def _describe_key(agent: ClaudeAgent, listing: Listing) -> str:
    return key_of(DESCRIBE.name, DESCRIBE.version, agent.model, page_hash(listing))


def _orders(line: str) -> bool:
    return any(is_injection(sentence) for sentence in sentences(line)) or is_injection(line)


def _about_candidate(request: Request, candidate: Candidate) -> Question:
    """Return the question about one candidate; its reference stays with us."""

    def check(said: Reviewed) -> str:
        given = [verdict.id for verdict in said.verdicts]
        return "" if given == [ONLY] else f"expected one verdict, on {ONLY}, and no other"

    wanted = {"summary": request.summary, "attributes": request.attributes}
    shown = {
        "id": ONLY,
        "kind": candidate.kind,
        "name": "" if is_injection(candidate.name) else tidy(candidate.name),
        "description": _described(candidate.text),
        "found_for": candidate.query,
        "similarity": round(candidate.similarity, 2),
    }
    return Question(REVIEW, "candidates", {"wanted": wanted, "candidates": [shown]}, check=check)


def _described(text: str) -> str:
    """Return a card's text without what speaks to the reader."""
    told = (part for part in sentences(plain(text, LONGEST_CARD)) if not is_injection(part))
    return " ".join(map(tidy, told))


def _distinct(phrases: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(phrase for phrase in phrases if phrase and not is_injection(phrase)))


def _instead(model: str, error: Exception) -> str:
    return f"offline agent instead of {model}: {error}"
