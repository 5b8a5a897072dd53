"""What does a person decide of a plan? Which experts are merged, or are not, and how strongly."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from diffgraph.agents.words import plain
from diffgraph.errors import InputError
from diffgraph.merging.plan import LARGEST
from diffgraph.planner.expert_names import LONGEST_SHOWN, ExpertNames
from diffgraph.prompting.syntax import ExpertTag

MOST_TAGS = 50  # of a prompt; each that is unknown is compared with every name
STRENGTH = re.compile(
    r"(.+):\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?inf|nan)\s*", re.I | re.S
)


@dataclass(frozen=True)
class Choices:
    """Experts that a person wants merged, and not; by default all is left to the planner.

    Raises:
        InputError: a strength is no number that a coefficient can be.
    """

    experts: tuple[tuple[str, float | None], ...] = ()
    """Names or references, each with its final coefficient; without one the method gives it."""
    without: tuple[str, ...] = ()
    """Names or references of experts that are not merged, however well they fit."""
    only: bool = False
    """Whether nothing but `experts` is merged."""
    notes: tuple[str, ...] = ()
    """What was asked for in passing and is not obeyed, a line each."""

    def __post_init__(self) -> None:
        for name, strength in self.experts:
            if strength is not None and not abs(strength) <= LARGEST:  # nan is neither
                raise InputError(f"{name!r} cannot be merged at {strength}")

    @classmethod
    def of(
        cls,
        experts: Iterable[str] | Mapping[str, float | None] = (),
        without: Iterable[str] = (),
        only: bool = False,
    ) -> "Choices":
        """Return choices as people write them: `name`, `name:0.8`, or strengths by name."""
        if isinstance(experts, str) or isinstance(without, str):
            raise InputError("experts are told in a list, even one")
        pairs = experts.items() if isinstance(experts, Mapping) else map(_parts, experts)
        try:
            named = ((str(name), None if at is None else float(at)) for name, at in pairs)
            return cls(tuple(named), tuple(map(str, without)), only)
        except (TypeError, ValueError) as error:
            raise InputError(f"a strength is a number: {error}") from error

    def found_in(self, names: ExpertNames) -> "Choices":
        """Return the same choices with references instead of names.

        Raises:
            InputError: a name is unknown or ambiguous, an expert cannot be merged, or two choices
                contradict each other.
        """
        wanted: dict[str, float | None] = {}
        for name, strength in self.experts:
            ref = names.find(name)
            if wanted.setdefault(ref, strength) != strength:
                raise InputError(f"{names.told(ref)} is asked for twice, with two strengths")
        banned = dict.fromkeys(names.find(name, may_be_unusable=True) for name in self.without)
        if both := wanted.keys() & banned:
            raise InputError(f"{names.told(min(both))} is asked for and left out")
        return replace(self, experts=tuple(wanted.items()), without=tuple(banned))

    def with_tags(self, tags: Sequence[ExpertTag], names: ExpertNames) -> "Choices":
        """Return these choices, with references, and the experts that a prompt's tags name.

        What a tag says and what cannot be obeyed becomes a note: the rest is drawn. What is asked
        for outside of the prompt counts before a tag.

        Raises:
            InputError: only what is asked for shall be merged, and nothing is.
        """
        if self.only and not self.experts and not tags:
            raise InputError("only the experts that are asked for, and none is asked for")
        wanted, notes = dict(self.experts), list(self.notes)
        if len(tags) > MOST_TAGS:
            notes.append(f"of {len(tags)} tags only the first {MOST_TAGS} are obeyed")
        for tag in tags[:MOST_TAGS]:
            try:
                ref, strength = tagged_expert(tag, names)
            except InputError as error:
                notes.append(f"{_shown(tag)} is not obeyed: {error}")
                continue
            if ref in self.without:
                notes.append(f"{_shown(tag)} is not obeyed: {names.told(ref)} is not wanted")
                continue
            if wanted.get(ref) is None:
                wanted[ref] = strength
            elif wanted[ref] != strength:
                told = f"{names.told(ref)} is asked for at {wanted[ref]:g}"
                notes.append(f"{_shown(tag)} is not obeyed: {told}")
            if tag.text_strength not in (None, tag.strength):
                notes.append(f"{_shown(tag)}: its text encoder is merged at the same {strength:g}")
        return replace(self, experts=tuple(wanted.items()), notes=tuple(notes))


NO_CHOICES = Choices()


def tagged_expert(tag: ExpertTag, names: ExpertNames) -> tuple[str, float]:
    """Return the expert that a tag names, and its coefficient; raises as `Choices.found_in`."""
    ((ref, _),) = Choices(((tag.name, tag.strength),)).found_in(names).experts
    return ref, tag.strength


def _shown(tag: ExpertTag) -> str:
    return plain(tag.written, LONGEST_SHOWN)


def _parts(text: str) -> tuple[str, str | None]:
    """Return a name and the strength behind it; in a reference no number follows a colon alone."""
    found = STRENGTH.fullmatch(text)
    return (found[1], found[2]) if found else (text, None)
