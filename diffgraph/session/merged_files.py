"""How does a plan become a model file, a folder, or the nearest LoRA?"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffgraph.errors import InputError
from diffgraph.experts.delta import Delta
from diffgraph.experts.reading import open_delta
from diffgraph.experts.references import may_be_cut
from diffgraph.merging.as_lora import lora_metadata, nearest_lora, write_lora
from diffgraph.merging.base_files import BaseFiles, open_base
from diffgraph.merging.layouts import left_out, single_file
from diffgraph.merging.model_card import model_card
from diffgraph.merging.plan import MergePlan
from diffgraph.merging.plan_files import ABOUT
from diffgraph.merging.provenance import credits, files_of, provenance
from diffgraph.merging.sources import MergeSources
from diffgraph.merging.to_file import TYPES, FileMerge, OnProgress
from diffgraph.merging.to_folder import write_folder
from diffgraph.results import Result, Rows, rows
from diffgraph.session.known_experts import KnownExperts
from diffgraph.settings import Settings
from diffgraph.targets import FileLayout, FileType, demand_new, model_target
from diffgraph.version import version

LORA = "lora"
"""The layout of a LoRA, beside those of whole models."""


class MergedFile(Result):
    """A model file that was written."""

    file: Path
    layout: str
    type: str
    size_bytes: int
    plan_id: str
    rule: str
    coefficients: dict[str, float]
    read: dict[str, str]
    """Expert → how many keys of its file changed how many parameters, and what was left out."""
    credits: tuple[dict[str, Any], ...]
    """Who made each expert, and under which licence."""
    debts: tuple[str, ...]
    """What the experts' licences ask of whoever passes the file on."""
    left_out: tuple[str, ...] = ()
    """What the plan changes and the file has no place for."""
    rank: int | None = None
    kept: float | None = None
    """Of a LoRA: the share of the squared norm of all changes that its rank has room for."""
    seconds: float

    def lines(self) -> Iterator[str | Rows]:
        """Yield where it is, what is in it and what is owed."""
        size = f"{self.size_bytes / 1e6:.1f} MB, {self.type}, {self.layout}"
        yield f"{self.file}  ({size}, {self.seconds:.1f} s)"
        yield f"plan {self.plan_id} ({self.rule})"
        yield rows(("coefficient", "expert"), [(c, ref) for ref, c in self.coefficients.items()])
        yield from (f"{ref}: {told}" for ref, told in self.read.items())
        if self.kept is not None:
            yield f"rank {self.rank} keeps {100 * self.kept:.1f} % of what the LoRAs change"
        if self.left_out:
            yield f"left out: {len(self.left_out)} parameters, {self.left_out[0]} for one"
        yield from (f"owed: {line}" for line in self.debts)


@dataclass(frozen=True)
class MergeOptions:
    """How a model file is written; see `Session.merge`."""

    layout: FileLayout | None
    type: FileType
    rank: int | None
    force: bool

    @classmethod
    def of(cls, layout: str | None, type: str, rank: int | None, force: bool) -> "MergeOptions":
        """Return the options, or raise `InputError`."""
        if rank is not None and (rank < 1 or layout is not None):
            raise InputError("a LoRA has a rank of at least 1, and one layout")
        try:
            return cls(FileLayout(layout) if layout else None, FileType(type), rank, force)
        except ValueError as error:
            raise InputError(f"{error}: use {_words(FileLayout)}; {_words(FileType)}") from None


def _words(kind: Iterable[str]) -> str:
    return ", ".join(kind)


def write_merged(
    plan: MergePlan,
    experts: KnownExperts,
    settings: Settings,
    path: str,
    how: MergeOptions,
    on_progress: OnProgress | None = None,
) -> MergedFile:
    """Write what a plan makes of its base; see `Session.merge`."""
    start, rank, type = time.perf_counter(), how.rank, how.type
    out, layout = model_target(path, FileLayout.SINGLE_FILE if rank else how.layout)
    is_folder = layout is FileLayout.DIFFUSERS
    demand_new(out, settings, how.force, ours=ABOUT if is_folder else "")
    job = _Job.of(plan, experts)
    facts: dict[str, Any] = {"layout": layout.value}
    if rank is not None:
        facts = job.write_lora(out, rank, type)
    elif is_folder:
        metadata, dtype = job.metadata("a merged model"), TYPES[type]
        card = model_card(job.sources, str(dtype).removeprefix("torch."))
        write_folder(job.merge, out, dtype, metadata, on_progress, card)
    else:
        slots = single_file(job.base)
        job.merge.write(out, slots, TYPES[type], job.metadata("a merged model"), on_progress)
        touched = {name for delta in job.deltas.values() for name in delta.updates}
        facts["left_out"] = tuple(sorted(touched & left_out(job.base, slots)))
    files = [file for file in (out, *out.rglob("*")) if file.is_file()]
    return MergedFile(
        file=out,
        type=type.value,
        size_bytes=sum(file.stat().st_size for file in files),
        plan_id=plan.id,
        rule=plan.rule,
        coefficients=plan.coefficients(),
        read={
            ref: "a checkpoint, which is not in a LoRA"
            if rank is not None and job.sources.experts[ref].kind == "checkpoint"
            else delta.coverage.report().told
            for ref, delta in job.deltas.items()
        },
        credits=tuple(credits(plan, job.sources.experts)),
        debts=job.sources.debts,
        seconds=round(time.perf_counter() - start, 3),
        **facts,
    )


@dataclass(frozen=True)
class _Job:
    """A plan with all that it needs at hand."""

    plan: MergePlan
    base: BaseFiles
    sources: MergeSources
    deltas: Mapping[str, Delta]

    @classmethod
    def of(cls, plan: MergePlan, known: KnownExperts) -> "_Job":
        sources = known.sources(plan)
        paths, base = files_of(sources.experts, known), open_base(known.family)
        parameters, prediction = base.parameters, known.family.prediction
        deltas = {
            ref: open_delta(path, parameters, prediction=prediction, copied=may_be_cut(path))
            for ref, path in paths.items()
        }
        return cls(plan, base, sources, deltas)

    @property
    def merge(self) -> FileMerge:
        return FileMerge(self.plan, self.deltas, self.base)

    def write_lora(self, out: Path, rank: int, type: FileType) -> dict[str, Any]:
        lora = nearest_lora(self.plan, self.deltas, self.base, rank, TYPES[type])
        metadata = self.metadata("the nearest LoRA to the PEFT experts of a plan")
        write_lora(out, lora, metadata | lora_metadata(lora, self.plan.family))
        return {"layout": LORA, "left_out": lora.left_out, "rank": lora.rank, "kept": lora.kept}

    def metadata(self, made: str) -> dict[str, str]:
        return provenance(self.plan, self.sources.experts, version(), made)
