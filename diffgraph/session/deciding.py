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
    selection = session.select(prompt, choices)
    plan = session.plans.of_selection(method, selection)[0]
    merged = {expert.ref for expert in plan.experts}
    for ref, _ in choices.found_in(session.expert_names).experts:
        if ref not in merged:
            name = session.expert_names.told(ref)
            raise InputError(f"{name} is asked for, and {method} makes no use of it")
    return Decision(selection, with_hashes(plan, session.experts))


def settled(session: "Session", prompt: str, choices: "Choices | None") -> "Choices":
    """Return what a person decides, in the prompt as well, with references instead of names.

    Raises:
        InputError: a choice cannot be obeyed; a tag in the prompt that cannot becomes a note.
    """
    from diffgraph.planner.choices import NO_CHOICES
    from diffgraph.prompting.syntax import read_prompt

    tags = read_prompt(prompt).tags
    if not tags and choices is None:
        return NO_CHOICES  # and no name is looked up
    names = session.expert_names
    return (choices or NO_CHOICES).found_in(names).with_tags(tags, names)


def check_method(name: str) -> None:
    """Raise `InputError` unless there is a method of this name that gives one plan a prompt."""
    from diffgraph.baselines import BASELINES
    from diffgraph.evaluation.methods import PLANNED

    if name not in PLANNED and name not in BASELINES:
        known = ", ".join((*BASELINES, *PLANNED))
        raise InputError(f"no method is called {name!r}: there is {known}")
