"""How well are experts retrieved? Straight from the core: nothing is drawn, without a flow."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from diffgraph.evaluation.retrieval_metrics import (
    DescribedExperts,
    PromptResult,
    RetrievalSummary,
    Selector,
    evaluate_retrieval,
    read_labels,
)
from diffgraph.results import Result, Rows, rows
from diffgraph.session import Session
from diffgraph.settings import Settings

SHOWN = 10  # prompts whose misses are printed; the JSON has them all
LONGEST = 100  # characters of a prompt in the list of misses


class RetrievalQuality(Result):
    """How well the labelled experts were found, and what was missed."""

    labels: Path
    snapshot: str
    agent: str
    summary: RetrievalSummary
    results: tuple[PromptResult, ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield the figures, then the prompts with the most misses."""
        told = self.summary
        yield (
            f"{told.prompts} prompts, {told.labels} labels, {told.experts} experts"
            f" (snapshot {self.snapshot}, {self.agent} agent)"
        )
        yield rows(
            ("candidates", ""),
            [(f"recall@{depth}", value) for depth, value in told.recall_at.items()]
            + [("labels in the graph", told.reachable)],
        )
        precision = (
            "nothing chosen" if told.selection_precision is None else told.selection_precision
        )
        yield rows(
            ("selection", ""),
            [
                ("recall", told.selection_recall),
                ("precision", precision),
                ("prompts served whole", told.whole),
                ("chosen a prompt", told.chosen),
                ("others a prompt", told.others),
            ],
        )
        if told.problems:
            yield f"{told.problems} prompts could not be read"
        yield from self._misses()

    def _misses(self) -> Iterator[str]:
        missed = sorted(
            (result for result in self.results if result.missed),
            key=lambda result: -len(result.missed),
        )
        for result in islice(missed, SHOWN):
            where = ", ".join(
                f"{expert} ({_place(result.places[expert])})" for expert in result.missed
            )
            yield f"missed: {where} for {result.prompt[:LONGEST]!r}{_because(result)}"
        if len(missed) > SHOWN:
            yield f"{len(missed) - SHOWN} more prompts with misses: --json lists them all"


def retrieval(settings: Settings, labels: Path, limit: int | None = None) -> RetrievalQuality:
    """Return how well selection finds the experts of a file of labels."""
    from diffgraph.evaluation.prompt_sets import bundled_sets
    from diffgraph.planner.selection import SelectionConfig

    session = Session.of(settings)
    path = bundled_sets(session.family_name).get(str(labels), labels)
    wanted = read_labels(path)[:limit]
    nodes = DescribedExperts.of(session.graph)
    config = session.overrides.of(SelectionConfig())
    finder = Selector(nodes, session.agent, session.embedder, config, session.known_exclusions)
    summary, results = evaluate_retrieval(wanted, finder, nodes.refs)
    return RetrievalQuality(
        labels=path,
        snapshot=session.graph.id,
        agent=session.agent.name,
        summary=summary,
        results=results,
    )


def _place(place: int | None) -> str:
    return "not among the candidates" if place is None else f"candidate {place}"


def _because(result: PromptResult) -> str:
    return f": {result.problem}" if result.problem else ""
