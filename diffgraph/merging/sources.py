"""Which files does a plan merge, as other tools and the people who made them know them?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from diffgraph.errors import PlanError
from diffgraph.experts.expert import Expert
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.provenance import licence_duties

ENDING = ".safetensors"


class BaseSource(NamedTuple):
    """A base as people and other tools know it."""

    name: str
    folder: str = ""
    """In the diffusers layout, or a hub's name of one; of a single file, what describes it."""
    path: str = ""
    """Of the single file; a folder has none, and no hash that tools know it by."""
    sha256: str = ""
    """Of that file."""

    @property
    def file(self) -> str:
        """The single file's name, or what it would be called."""
        return f"{self.name}{ENDING}"


@dataclass(frozen=True)
class MergeSources:
    """A plan and the files with a part in it."""

    plan: MergePlan
    base: BaseSource
    experts: Mapping[str, Expert]
    files: Mapping[str, str]
    """By reference: what the hub, or the folder, calls the file."""
    paths: Mapping[str, Path] = field(default_factory=dict)
    """By reference: where the file is; of what has gone there is nothing."""
    autov3: Mapping[str, str] = field(default_factory=dict)
    """By reference of a LoRA: the first 12 digits of the SHA-256 of its file without the header."""

    def of_kind(self, kind: str) -> list[tuple[str, float]]:
        """Return references and coefficients of a kind's experts, in the order of references."""
        coefficients = self.plan.coefficients()
        found = (ref for ref in sorted(self.experts) if self.experts[ref].kind == kind)
        return [(ref, coefficients[ref]) for ref in found]

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint that is the whole model below the LoRAs; "" the base, None a mixture."""
        found = self.of_kind("checkpoint")
        if not self.plan.is_linear or len(found) > 1 or [c for _, c in found if c != 1]:
            return None
        return found[0][0] if found else ""

    def path_of(self, ref: str) -> Path:
        """Return where an expert's file is; raises `PlanError` if it has gone."""
        if ref not in self.paths:
            raise PlanError(f"the plan needs the file of {ref}, which is not there any more")
        return self.paths[ref]

    def demand_linear(self, tool: str) -> None:
        """Raise `PlanError` if another tool has no words for the plan's rule."""
        if not self.plan.is_linear:
            raise PlanError(
                f"the rule {self.plan.rule} is none that {tool} can say: `diffgraph merge` writes "
                "a file"
            )

    @property
    def debts(self) -> tuple[str, ...]:
        """What the experts' licences ask of whoever passes on what was made, a line each."""
        return licence_duties(self.experts[ref] for ref in sorted(self.experts))
