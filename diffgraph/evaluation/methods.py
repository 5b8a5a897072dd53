"""What does each method plan for a prompt? One selection a prompt, shared by all methods."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from diffgraph.baselines import BASELINES, Single
from diffgraph.errors import InputError, PlanError, SnapshotError
from diffgraph.evaluation.prompt_sets import EvaluationPrompt
from diffgraph.merging.plan import MergePlan, Normalisation
from diffgraph.merging.plan_files import reason_of
from diffgraph.planner.planner import Planner, plan_by_pages
from diffgraph.planner.selection import Selection
from diffgraph.prompting.syntax import read_prompt

if TYPE_CHECKING:
    from diffgraph.graph.embedding import TextEmbedder
    from diffgraph.graph.snapshot import GraphSnapshot

ORACLE = "best_single"
"""The chosen expert that earns most on this very prompt: better than anybody can choose alone."""

PLANNED: dict[str, Normalisation | None] = {"diffgraph": None, "diffgraph_softmax": "softmax"}
"""The methods that ask the planner, with another normalisation than its own."""

OTHER_PLANNER = "planner:"
"""Before the id of a planner of the home: what it plans, by its own normalisation."""

METHODS = ("base", "single", ORACLE, "uniform", "uniform_strength", *reversed(PLANNED))
"""What is compared unless asked otherwise."""


class MethodPlans:
    """Makes every method's plans: what `Bench.make_plans` needs."""

    def __init__(
        self,
        snapshot: "GraphSnapshot",
        planner: Planner | None,
        embedder: "TextEmbedder",
        select: Callable[[str], Selection],
        open_planner: Callable[[str], Planner | None] | None = None,
    ) -> None:
        """Remember what plans are made from.

        Args:
            snapshot: the graph that experts are chosen from.
            planner: a trained one; without any, plans are at the strengths of pages.
            embedder: the one that the snapshot was made with.
            select: prompt → the experts it needs.
            open_planner: id → another planner, to be compared with this one; raises `MissingInput`.
        """
        self.snapshot, self.planner, self.embedder = snapshot, planner, embedder
        self._select, self._open = select, open_planner
        self._selections: dict[str, Selection] = {}

    def __call__(self, method: str, prompt: EvaluationPrompt) -> Sequence[MergePlan]:
        """Return a method's plan; of the oracle, every plan that it may choose from.

        Raises:
            InputError: there is no such method, or nothing can be drawn for the prompt.
            PlanError: a baseline's rule does not fit the experts, or it names another.
        """
        return self.of_selection(method, self.selection(prompt.text))

    def of_selection(self, method: str, selection: Selection) -> Sequence[MergePlan]:
        """Return a method's plans for a selection, at the strengths that a person gave.

        Raises: as a call.
        """
        found = self._plans(method, selection)
        base = MergePlan(family=self.snapshot.family)  # without experts all rules are the same
        strengths = selection.strengths
        return [plan.with_strengths(strengths) if plan.experts else base for plan in found]

    def _plans(self, method: str, selection: Selection) -> Sequence[MergePlan]:
        if method == ORACLE:
            return Single().candidates(selection, self.snapshot)
        if method in PLANNED:
            return [self._planned(self.planner, selection, PLANNED[method])]
        if method.startswith(OTHER_PLANNER) and self._open is not None:
            other = self._open(method.removeprefix(OTHER_PLANNER))
            return [self._planned(other, selection, None)]
        if method in BASELINES:
            return [self._of_baseline(method, selection)]
        known = ", ".join(sorted({*METHODS, *BASELINES, f"{OTHER_PLANNER}ID"}))
        raise InputError(f"no method is called {method!r}: there is {known}")

    def _of_baseline(self, method: str, selection: Selection) -> MergePlan:
        try:
            plan = BASELINES[method].plan(selection, self.snapshot)
            self.snapshot.index([expert.ref for expert in plan.experts])  # others are not merged
        except (ValidationError, SnapshotError) as error:
            raise PlanError(
                f"{method} has no plan for these experts: {reason_of(error)}"
            ) from error
        return plan

    def _planned(
        self, planner: Planner | None, selection: Selection, normalisation: Normalisation | None
    ) -> MergePlan:
        if planner is None:
            return plan_by_pages(self.snapshot, selection.refs)
        # tags and a negative prompt are nothing that experts should do
        embedding = self.embedder.embed([read_prompt(selection.prompt).text])[0]
        return planner.plan(self.snapshot, selection, embedding, normalisation)

    def selection(self, prompt: str) -> Selection:
        """Return the experts chosen for a prompt: asked once, the same for all methods."""
        if prompt not in self._selections:
            self._selections[prompt] = self._select(prompt)
        return self._selections[prompt]
