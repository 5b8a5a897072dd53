"""How does a plan leave this program? As a model file, a LoRA, or a prompt of another tool."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgraph.errors import MissingInput
from diffgraph.progress import report
from diffgraph.session.known_experts import KnownExperts
from diffgraph.settings import Settings
from diffgraph.targets import demand_new, model_target
from flows.cli.options import FileLayout, FileType, PromptSyntax
from flows.serving.results import Result, Rows, rows

if TYPE_CHECKING:
    from diffgraph.experts.delta import Delta
    from diffgraph.experts.expert import Expert, Listing
    from diffgraph.merging.base_files import BaseFiles
    from diffgraph.merging.plan import MergePlan

STAGE = "merge"
MILLION = 10**6
SUFFIX = ".safetensors"
LORA = "lora"
"""The layout of a LoRA, beside those of whole models."""


class Merged(Result):
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


class Said(Result):
    """A plan in the words of another tool."""

    syntax: str
    text: str
    checkpoint: str = ""
    """The checkpoint to choose beside a prompt, if it is not the base."""
    plan_id: str
    debts: tuple[str, ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield the words alone, to be copied; a prompt has no place for the checkpoint."""
        if self.checkpoint:
            yield f"checkpoint: {self.checkpoint}"
        yield from self.text.splitlines()


def merge(
    plan_file: Path,
    settings: Settings,
    out: str,
    layout: FileLayout | None = None,
    type: FileType = FileType.FP16,
    force: bool = False,
) -> Merged:
    """Write what a plan makes of its base as a file, or a folder, that other tools load.

    Args:
        plan_file: a plan, or any file or folder of ours that holds one.
        settings: where things are.
        out: the file, or the folder in the diffusers layout.
        layout: by default what the name of `out` says.
        type: of the numbers.
        force: write over a file that is there, or over a folder that this verb wrote.

    Raises:
        InputError: nothing may be written at `out`.
        LicenceForbids: an expert's licence forbids derivatives.
        PlanError: the plan cannot be carried out.
        StorageError: the file cannot be written; nothing is left of it.
    """
    from diffgraph.merging.plan_files import ABOUT

    start = time.perf_counter()
    target, layout = model_target(out, layout)
    demand_new(target, settings, force, ours=ABOUT if layout is FileLayout.DIFFUSERS else "")
    job = _Job.of(plan_file, settings)
    left_out = job.write(target, layout, type)
    return job.told(target, layout.value, type, start, left_out=left_out)


def as_lora(
    plan_file: Path,
    settings: Settings,
    out: str,
    rank: int,
    type: FileType = FileType.FP16,
    force: bool = False,
) -> Merged:
    """Write the LoRA that is nearest to what a plan's PEFT experts do together.

    Args:
        plan_file: as `merge` takes it.
        settings: where things are.
        out: the file.
        rank: of the LoRA.
        type: of the numbers.
        force: write over a file that is there.

    Raises:
        InputError, LicenceForbids, PlanError, StorageError: as `merge`.
    """
    from diffgraph.merging.as_lora import lora_metadata, nearest_lora, write_lora
    from diffgraph.merging.to_file import TYPES

    start = time.perf_counter()
    target, _ = model_target(out, FileLayout.SINGLE_FILE)
    demand_new(target, settings, force)
    job = _Job.of(plan_file, settings)
    lora = nearest_lora(job.plan, job.deltas, job.base, rank, TYPES[type.value])
    metadata = job.metadata("the nearest LoRA to the PEFT experts of a plan")
    write_lora(target, lora, metadata | lora_metadata(lora, job.plan.family))
    facts = {"left_out": lora.left_out, "rank": lora.rank, "kept": lora.kept}
    return job.told(target, LORA, type, start, **facts)


def say(plan_file: Path, settings: Settings, syntax: PromptSyntax) -> Said:
    """Return a plan in another tool's words.

    Args:
        plan_file: as `merge` takes it.
        settings: where things are.
        syntax: the tool.

    Raises:
        LicenceForbids: an expert's licence forbids derivatives.
        PlanError: the tool has no words for such a plan.
    """
    from diffgraph.merging.plan_files import read_plan
    from diffgraph.merging.prompt_syntax import SYNTAXES, needed_checkpoint
    from diffgraph.merging.provenance import experts_of, licence_duties

    plan = read_plan(plan_file).plan
    library = _library(plan, settings)
    experts, files = _as_listed(experts_of(plan, library), library)
    is_prompt = syntax is PromptSyntax.A1111
    return Said(
        syntax=syntax.value,
        text=SYNTAXES[syntax.value](plan, experts, files),
        checkpoint=needed_checkpoint(plan, experts, files) if is_prompt else "",
        plan_id=plan.id,
        debts=licence_duties(experts[ref] for ref in sorted(experts)),
    )


class _Job:
    """A plan with all that it needs at hand."""

    def __init__(self, plan: "MergePlan", base: "BaseFiles", experts: "Mapping[str, Expert]"):
        self.plan = plan
        self.base = base
        self.experts = experts
        self.deltas: dict[str, Delta] = {}

    @classmethod
    def of(cls, plan_file: Path, settings: Settings) -> "_Job":
        from diffgraph.experts.reading import open_delta
        from diffgraph.merging.base_files import open_base
        from diffgraph.merging.plan_files import read_plan
        from diffgraph.merging.provenance import experts_of, files_of

        plan = read_plan(plan_file).plan
        library = _library(plan, settings)
        experts, _ = _as_listed(experts_of(plan, library), library)
        paths = files_of(experts, library)
        job = cls(plan, open_base(library.family), experts)
        parameters = job.base.parameters
        for ref, path in paths.items():
            job.deltas[ref] = open_delta(path, parameters, prediction=library.family.prediction)
        return job

    def write(self, out: Path, layout: FileLayout, type: FileType) -> tuple[str, ...]:
        """Write the model; return the plan's parameters that the layout has no place for."""
        from diffgraph.merging.layouts import left_out, single_file
        from diffgraph.merging.to_file import TYPES, FileMerge
        from diffgraph.merging.to_folder import write_folder

        merge = FileMerge(self.plan, self.deltas, self.base)
        metadata = self.metadata("a merged model")
        if layout is FileLayout.DIFFUSERS:
            write_folder(merge, self.base, out, TYPES[type.value], metadata, _progress)
            return ()
        slots = single_file(self.base)
        merge.write(out, slots, TYPES[type.value], metadata, _progress)
        touched = {name for delta in self.deltas.values() for name in delta.updates}
        return tuple(sorted(touched & left_out(self.base, slots)))

    def metadata(self, made: str) -> dict[str, str]:
        from diffgraph.generation import code_version
        from diffgraph.merging.provenance import provenance

        return provenance(self.plan, self.experts, code_version(), made)

    def told(self, out: Path, layout: str, type: FileType, start: float, **others: Any) -> Merged:
        from diffgraph.merging.provenance import licence_duties

        files = [path for path in (out, *out.rglob("*")) if path.is_file()]
        return Merged(
            file=out,
            layout=layout,
            type=type.value,
            size_bytes=sum(path.stat().st_size for path in files),
            plan_id=self.plan.id,
            rule=self.plan.rule,
            coefficients=self.plan.coefficients(),
            read={
                ref: "a checkpoint, which is not in a LoRA"
                if layout == LORA and self.experts[ref].kind == "checkpoint"
                else delta.coverage.report().told
                for ref, delta in self.deltas.items()
            },
            debts=licence_duties(self.experts[ref] for ref in sorted(self.experts)),
            seconds=round(time.perf_counter() - start, 3),
            **others,
        )


def _library(plan: "MergePlan", settings: Settings) -> KnownExperts:
    from diffgraph.families import get_family

    return KnownExperts(settings.home, get_family(plan.family))


def _as_listed(
    experts: "Mapping[str, Expert]", library: KnownExperts
) -> "tuple[dict[str, Expert], dict[str, str]]":
    """Return the experts with the licences of their pages, and what their hub calls their files.

    The graph that ships with a family keeps less of a page than the page, which ships as well.
    """
    pages = _pages(experts, library)
    told, files = {}, {}
    for ref, expert in experts.items():
        page = pages.get(ref)
        told[ref] = expert
        if page is not None:
            shown = {"licence": page.licence, "page_url": page.page_url}
            told[ref] = expert.model_copy(update=shown)
        files[ref] = _file_name(expert, page)
    return told, files


def _pages(experts: "Mapping[str, Expert]", library: KnownExperts) -> "dict[str, Listing]":
    from diffgraph.crawlers.folder import FolderCrawler
    from diffgraph.experts.expert import Listing

    found, shipped = {}, set()
    for ref in experts:
        if library.library.find(ref) is None:
            shipped.add(ref)
            continue
        with suppress(MissingInput):  # a page that is gone leaves what the row says
            found[ref] = library.library.listing(ref)
    hub = library.family.hub
    if shipped and hub is not None:
        for page in FolderCrawler(hub).listings():
            if isinstance(page, Listing) and str(page.ref) in shipped:
                found[str(page.ref)] = page
    return found


def _file_name(expert: "Expert", page: "Listing | None") -> str:
    """Return what an expert's file is called by whoever downloads it from its page."""
    file = page.file if page is not None else None
    for text in (file.name, file.url) if file is not None else ():
        name = text.rpartition("/")[2]
        if name.endswith(SUFFIX):
            return name
    return "".join(letter if letter.isalnum() else "_" for letter in expert.name) + SUFFIX


def _progress(file: Path, done: int, total: int) -> None:
    """Report how far a file is: in millions, of which a small file has one."""
    millions = -(-total // MILLION)
    whole = millions if done == total else min(done // MILLION, millions - 1)
    if whole:  # else there is nothing to see yet
        report(STAGE, whole, millions, f"(millions of numbers) {'/'.join(file.parts[-2:])}")
