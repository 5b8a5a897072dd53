"""What a language model decides: typed questions and answers, with an offline answerer."""

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, Field

from diffgraph.experts.card import ExpertCard
from diffgraph.experts.expert import Kind, Listing


class Request(BaseModel, frozen=True):
    """What a prompt asks for."""

    prompt: str
    summary: str = Field(description="the subject and overall style: what chooses checkpoints")
    attributes: tuple[str, ...] = Field(
        default=(), description="fine-grained visual attributes: each looks for PEFT experts"
    )
    broader: tuple[str, ...] = Field(
        default=(), description="what kind of thing the subject is: animal, vehicle, …"
    )
    unknown_words: tuple[str, ...] = ()
    note: str = Field(default="", description="why another agent answered than was asked")


class Candidate(BaseModel, frozen=True):
    """An expert that retrieval found for a part of the request."""

    ref: str
    kind: Kind
    name: str
    text: str = Field(description="its card's text")
    query: str = Field(description="the summary or attribute it was found for")
    similarity: float


class Verdict(BaseModel, frozen=True):
    """Whether a candidate is kept, and why."""

    ref: str
    kept: bool
    reason: str


class Agent(Protocol):
    """Answers three questions. Answers are data: they never cause an action."""

    name: str
    model: str  # the language model that is asked, if one is
    instruction_version: str
    pages_together: int  # that are best read in one go

    def prepare(self, listings: Sequence[Listing]) -> None:
        """Read many pages together if that is quicker or cheaper, for `describe` to use."""
        ...

    def describe(self, listing: Listing) -> ExpertCard:
        """Return what the page's expert is good for. The page is untrusted text."""
        ...

    def parse(self, prompt: str) -> Request:
        """Return what a prompt asks for."""
        ...

    def review(self, request: Request, candidates: Sequence[Candidate]) -> tuple[Verdict, ...]:
        """Return one verdict a candidate: irrelevant and redundant ones are dropped."""
        ...
