"""What did a look at a hub change?"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, InstanceOf, PlainSerializer, computed_field

from diffgraph.crawlers.crawler import BrokenPage
from diffgraph.experts.expert import Expert
from diffgraph.results import Result, Rows, rows

SHOWN = 40
"""Refusals that are listed one by one; of more, the reasons are counted."""

NUMBERS = re.compile(r"\b[0-9a-f]{10,}\b|(?<![\w.])\d[\d.,]*(?![\w.])")

Refusal = dict[str, str]
"""What is refused (a reference or a page), its name and the reason."""


class Experts(Sequence[Expert]):
    """Experts in an order. An orchestrator looks through all fields of a tuple's, for minutes."""

    def __init__(self, experts: Iterable[Expert] = ()) -> None:
        self._experts = tuple(experts)

    def __getitem__(self, place: Any) -> Any:
        """Return the expert at a place, or those of a slice."""
        return self._experts[place]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._experts)

    def __eq__(self, other: object) -> bool:
        """Whether the other holds the same experts in the same order."""
        return isinstance(other, Sequence) and self._experts == tuple(other)

    __hash__ = None  # type: ignore[assignment]


def _refs(experts: Iterable[Expert]) -> list[str]:
    return [expert.ref for expert in experts]


def _pages(pages: Iterable[BrokenPage]) -> list[Refusal]:
    return [{"what": page.where, "name": "", "reason": page.reason} for page in pages]


NOBODY = Experts()
Refs = Annotated[InstanceOf[Experts], PlainSerializer(_refs)]
Count = Annotated[InstanceOf[Experts], PlainSerializer(len)]
Hidden = Annotated[InstanceOf[Experts], Field(exclude=True)]


class Discovery(Result):
    """What one look at a hub changed in the library: for programs as references and counts.

    `new` and `updated` are ready to merge; `rejected` and `registered_only` are new or changed too,
    and carry their reasons; `unchanged` are all others that were there, usable or not.
    """

    source: str
    ready: int = 0
    """All experts of the library that can be merged."""
    new: Refs = NOBODY
    updated: Refs = NOBODY
    superseded: Refs = NOBODY
    retired: Refs = NOBODY
    unchanged: Count = NOBODY
    listed: Count = NOBODY
    """Only their pages were read, as was asked for."""
    later: int = 0
    """New or changed, and left for another time, as was asked for."""
    failed: Annotated[tuple[BrokenPage, ...], PlainSerializer(_pages)] = ()
    """Not our doing nor theirs: the next run tries again."""
    read_before: int = 0
    """Dealt with by a crawl that was stopped, and not counted above."""
    is_whole: bool = True
    """Whether the hub was read to its end."""
    uncalibrated: int = 0
    """Experts of the graph that nobody has measured yet."""
    registered_only: Hidden = NOBODY
    rejected: Hidden = NOBODY
    broken: tuple[BrokenPage, ...] = Field(default=(), exclude=True)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def refused(self) -> list[Refusal]:
        """Experts and pages that cannot be used, and why."""
        return _pages(self.broken) + [
            {"what": expert.ref, "name": expert.name, "reason": expert.reason}
            for expert in (*self.registered_only, *self.rejected)
        ]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def partly(self) -> list[Refusal]:
        """New or updated and used, though some of their files' keys are left out, and which."""
        return [
            {"what": expert.ref, "name": expert.name, "reason": expert.coverage.told}
            for expert in (*self.new, *self.updated)
            if expert.coverage is not None and not expert.coverage.is_whole
        ]

    def lines(self) -> Iterator[str | Rows]:
        """Yield a line of counts, then who was refused and why."""
        yield (
            f"{self.source}: {len(self.new)} new, {len(self.updated)} updated, "
            f"{len(self.superseded)} superseded, {len(self.retired)} retired, "
            f"{len(self.unchanged)} unchanged; {self.ready} experts can be merged"
        )
        if self.read_before:
            yield f"went on with a crawl that was stopped; it had dealt with {self.read_before}"
        if self.listed:
            yield f"{len(self.listed)} known by their pages only"
        if self.later:
            yield f"{self.later} left for another time"
        if not self.is_whole:
            yield "the hub was not read to its end; the same command goes on, nobody was retired"
        if refused := self.refused:
            yield f"{len(refused)} refused:"
            yield _each(refused) if len(refused) <= SHOWN else _reasons(refused)
        if self.rejected and not self.ready:
            family = next(iter(self.rejected)).family
            yield f"the family is {family}: if these are for another, say which with --family"
        partly = self.partly
        for expert in partly[:SHOWN]:
            yield f"{expert['what']}: {expert['reason']}"
        if len(partly) > SHOWN:
            yield f"and {len(partly) - SHOWN} more were not read in whole"
        yield from self._not_reached()
        if self.uncalibrated:
            yield (
                f"{self.uncalibrated} not calibrated yet: plan and generate merge them as strongly "
                "as their pages say, until `diffgraph build` has measured them (if the family's "
                "images can be scored)"
            )

    def _not_reached(self) -> Iterator[str]:
        for page in self.failed[:SHOWN]:
            yield f"not reached, tried again next time: {page.where}: {page.reason}"
        if len(self.failed) > SHOWN:
            yield f"and {len(self.failed) - SHOWN} more were not reached"

    @classmethod
    def of_none(cls, source: str, ready: int, reason: str) -> "Discovery":
        """Return what it is to find a hub not there: everything stays as it was."""
        page = BrokenPage(where=source, reason=reason)
        return cls(source=source, ready=ready, failed=(page,), is_whole=False)

    @classmethod
    def together(cls, looks: Sequence["Discovery"]) -> "Discovery":
        """Return what looks at several hubs, one after the other, changed as one."""
        lists = ("new", "updated", "superseded", "retired", "unchanged", "listed",
                 "registered_only", "rejected")  # fmt: skip
        if len(looks) == 1:
            return looks[0]
        return cls(
            source=", ".join(look.source for look in looks),
            ready=looks[-1].ready,
            later=sum(look.later for look in looks),
            read_before=sum(look.read_before for look in looks),
            failed=tuple(page for look in looks for page in look.failed),
            broken=tuple(page for look in looks for page in look.broken),
            is_whole=all(look.is_whole for look in looks),
            **{name: Experts(one for look in looks for one in getattr(look, name))
               for name in lists},
        )  # fmt: skip


def _each(refused: list[Refusal]) -> Rows:
    return rows(("expert", "name", "reason"), [tuple(refusal.values()) for refusal in refused])


def _reasons(refused: list[Refusal]) -> Rows:
    """Return how many were refused for which reason, numbers in it aside, with one of each."""
    kinds = [NUMBERS.sub("…", refusal["reason"]) for refusal in refused]
    example = dict(zip(reversed(kinds), reversed(refused), strict=True))
    table = [
        (str(count), kind, f"{example[kind]['what']} {example[kind]['name']}".strip())
        for kind, count in Counter(kinds).most_common()
    ]
    return rows(("refused", "reason", "one of them"), table)
