"""How does a plan leave this program? As a model file, a LoRA, or a prompt of another tool."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from diffgraph.errors import InputError, MissingInput
from diffgraph.settings import Settings
from flows.options import FileLayout, FileType
from flows.printing import Result, Rows, rows
from tasks.progress import report
from tasks.studio import KnownExperts

if TYPE_CHECKING:
    from diffgraph.experts.delta import Delta
    from diffgraph.experts.expert import Expert
    from diffgraph.merging.base_files import BaseFiles
    from diffgraph.merging.plan import MergePlan

STAGE = "merge"
MILLION = 10**6


class Merged(Result):
    """A model file that was written."""

    file: Path
    layout: str
    type: str
    size_bytes: int
    plan_id: str
    rule: str
    coefficients: dict[str, float]
    debts: tuple[str, ...]
    """What the experts' licences ask of whoever passes the file on."""
    left_out: tuple[str, ...] = ()
    """What the plan changes and the layout has no place for."""
    seconds: float

    def lines(self) -> Iterator[str | Rows]:
        """Yield where it is, what is in it and what is owed."""
        size = f"{self.size_bytes / 1e6:.1f} MB, {self.type}, {self.layout}"
        yield f"{self.file}  ({size}, {self.seconds:.1f} s)"
        yield f"plan {self.plan_id} ({self.rule})"
        yield rows(("coefficient", "expert"), [(c, ref) for ref, c in self.coefficients.items()])
        yield from (f"owed: {line}" for line in self.debts)
        if self.left_out:
            yield f"left out: {len(self.left_out)} parameters, {self.left_out[0]} for one"


def merge(
    plan_file: Path,
    settings: Settings,
    out: Path,
    layout: FileLayout | None = None,
    type: FileType = FileType.FP16,
) -> Merged:
    """Write what a plan makes of its base as a file, or a folder, that other tools load.

    Args:
        plan_file: a plan, what `diffgraph plan --json` printed, or an image of ours.
        settings: where things are.
        out: the file, or the folder in the diffusers layout.
        layout: by default a single file if `out` ends in .safetensors, else a folder.
        type: of the numbers.

    Raises:
        LicenceForbids: an expert's licence forbids derivatives.
        PlanError: the plan cannot be carried out.
        StorageError: the file cannot be written; nothing is left of it.
    """
    from diffgraph.merging.provenance import debts

    start = time.perf_counter()
    job = _Job.of(plan_file, settings)
    layout = layout or _layout_of(out)
    left_out = job.write(out, layout, type)
    files = [path for path in (out, *out.rglob("*")) if path.is_file()]
    return Merged(
        file=out,
        layout=layout.value,
        type=type.value,
        size_bytes=sum(path.stat().st_size for path in files),
        plan_id=job.plan.id,
        rule=job.plan.rule,
        coefficients=job.plan.coefficients(),
        debts=debts(job.experts[ref] for ref in sorted(job.experts)),
        left_out=left_out,
        seconds=round(time.perf_counter() - start, 3),
    )


def read_plan(path: Path) -> "MergePlan":
    """Return the plan in a JSON file or an image.

    Raises:
        MissingInput: the file is not there or cannot be read.
        InputError: it holds no plan, or the plans of several prompts.
    """
    if path.suffix.lower() == ".png":
        from diffgraph.generation import read_png

        return read_png(path).plan
    from diffgraph.merging.plan import MergePlan

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and isinstance(found.get("plans"), list):
            found = _only(path, found["plans"])  # what `plan --json` prints
        return MergePlan.model_validate(found.get("plan", found))
    except OSError as error:
        raise MissingInput(f"the plan {path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, ValidationError) as error:
        raise InputError(f"{path} holds no merge plan: {_first_reason(error)}") from error


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
        from diffgraph.families import get_family
        from diffgraph.merging.base_files import open_base
        from diffgraph.merging.provenance import experts_of, files_of

        plan = read_plan(plan_file)
        family = get_family(plan.family)
        library = KnownExperts(settings.home, family)
        experts = experts_of(plan, library)
        paths = files_of(experts, library)
        job = cls(plan, open_base(family), _licensed(experts, library))
        parameters = job.base.parameters
        for ref, path in paths.items():
            job.deltas[ref] = open_delta(path, parameters)
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


def _licensed(experts: "Mapping[str, Expert]", library: KnownExperts) -> "dict[str, Expert]":
    """Return the experts with what their pages say; the bundled graph keeps less than the pages."""
    from diffgraph.crawlers.folder import FolderCrawler
    from diffgraph.experts.expert import Listing

    shipped = {ref for ref in experts if library.library.find(ref) is None}
    if not shipped or library.family.hub is None:
        return dict(experts)
    pages = (page for page in FolderCrawler(library.family.hub).listings())
    found = {str(page.ref): page for page in pages if isinstance(page, Listing)}
    return {
        ref: expert.model_copy(
            update={"licence": found[ref].licence, "page_url": found[ref].page_url}
        )
        if ref in shipped and ref in found
        else expert
        for ref, expert in experts.items()
    }


def _progress(done: int, total: int) -> None:
    report(STAGE, done // MILLION, max(1, total // MILLION), "million numbers")


def _layout_of(out: Path) -> FileLayout:
    single = out.suffix.lower() == ".safetensors"
    return FileLayout.SINGLE_FILE if single else FileLayout.DIFFUSERS


def _only(path: Path, plans: list[Any]) -> Any:
    if len(plans) != 1:
        raise InputError(f"{path} holds {len(plans)} plans: a merge is of one")
    return plans[0]


def _first_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    return str(error).splitlines()[0]
