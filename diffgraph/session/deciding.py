"""What is merged for a prompt, as its writer and a method decide?"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from diffgraph.errors import InputError

if TYPE_CHECKING:
    from diffgraph.merging.plan import MergePlan
    from diffgraph.planner.choices import Choices
    from diffgraph.planner.selection import Selection
    from diffgraph.session.session import Session

WantedExperts = Iterable[str] | Mapping[str, float | None]
"""`["noir"]`, `["noir:0.8"]` or `{"noir": 0.8}`: a name or reference, a final coefficient."""


class Decision(NamedTuple):
    """What is to be merged for a prompt, and why."""

    selection: "Selection"
    plan: "MergePlan"


def choices_of(experts: WantedExperts, without: Iterable[str], only: bool) -> "Choices | None":
    """Return what a person decides, if anything."""
    from diffgraph.planner.choices import NO_CHOICES, Choices

    choices = Choices.of(experts, without, only)
    return None if choices == NO_CHOICES else choices


def decide(session: "Session", prompt: str, method: str, choices: "Choices | None") -> Decision:
    """Return what a method merges for a prompt; see `Session.decide`."""
    from diffgraph.merging.provenance import with_hashes

    check_method(method)
    if choices is None:
        selection = session.plans.selection(prompt)
        plan = session.plans.of_selection(method, selection)[0]
        return Decision(selection, with_hashes(plan, session.experts))
    wanted = choices.found_in(session.expert_names)
    selection = session.select(prompt, wanted)
    plan = session.plans.of_selection(method, selection)[0]
    merged = {expert.ref for expert in plan.experts}
    for ref, _ in wanted.experts:
        if ref not in merged:
            name = session.expert_names.told(ref)
            raise InputError(f"{name} is asked for, and {method} makes no use of it")
    return Decision(selection, with_hashes(plan, session.experts))


def check_method(name: str) -> None:
    """Raise `InputError` unless there is a method of this name that gives one plan a prompt."""
    from diffgraph.baselines import BASELINES
    from diffgraph.evaluation.methods import PLANNED

    if name not in PLANNED and name not in BASELINES:
        known = ", ".join((*BASELINES, *PLANNED))
        raise InputError(f"no method is called {name!r}: there is {known}")
