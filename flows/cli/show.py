"""What is known? One function a subject, its result fit for a person and a program."""

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.results import Result, Rows, rows
from diffgraph.session import Session
from diffgraph.settings import Settings
from diffgraph.targets import demand_folder
from flows.cli.options import GraphFormat

if TYPE_CHECKING:
    from diffgraph.experts.expert import Expert
    from diffgraph.graph.snapshot import GraphSnapshot

GAIN = "gain is how far the mean lies above the base alone, in standard deviations of the base"
COVERAGE = (
    *("keys_matched", "keys_skipped", "keys_unknown", "parameters", "non_finite"),
    *("norms", "evidence"),
)
"""Columns of the graph that tell how well a file was understood."""
NOT_TOLD = ("text", "page_sha256", "instruction_version")
"""What an expert's other rows say already, or only programs need."""


class GraphSummary(Result):
    """The graph as a whole."""

    snapshot: str
    family: str
    checkpoints: int
    peft: int
    only_known: int
    reference_prompts: int
    edges: int
    uncalibrated: int
    strongest: dict[str, tuple[tuple[str, str, float], ...]]
    """Score → the experts with the highest mean gain over the base, in its deviations: reference,
    name, gain."""
    score_notes: dict[str, str]
    """Score → what a reader of it must know: that it is a stand-in for another."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield the counts, then who is best at what."""
        yield (
            f"snapshot {self.snapshot} of {self.family}: {self.checkpoints} checkpoints and "
            f"{self.peft} PEFT experts can be merged, {self.only_known} only known"
        )
        yield (
            f"{self.reference_prompts} reference prompts, {self.edges} edges: "
            "what each expert scores on each prompt"
        )
        if self.uncalibrated:
            yield (
                f"{self.uncalibrated} not calibrated yet: merged as strongly as their pages say, "
                "until `diffgraph build` has measured them (if the family's images can be scored)"
            )
        if not self.strongest:
            return
        yield f"best by score; {GAIN}:"
        table = [(score, *best) for score, three in self.strongest.items() for best in three]
        yield rows(("score", "expert", "name", "gain"), table)
        yield from _note_lines(self.score_notes)


class ExpertList(Result):
    """All experts of the library or, without one, of the snapshot."""

    experts: tuple[dict[str, Any], ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield a table."""
        columns = ("ref", "kind", "format", "status", "name", "reason")
        yield rows(columns, [[row.get(name, "") for name in columns] for row in self.experts])
        yield f"{len(self.experts)} experts"


class RefusedExperts(Result):
    """The experts that are known and never merged: the record of each decision."""

    experts: tuple[dict[str, Any], ...]
    """Source, licence, what it asks of us, scans, hashes, decision and reason."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield a table, then the counts."""
        columns = ("expert", "name", "decision", "reason", "page")
        yield rows(columns, [[row.get(name, "") for name in columns] for row in self.experts])
        counts = Counter(row["decision"] for row in self.experts)
        told = [f"{count} {decision.replace('_', ' ')}" for decision, count in counts.items()]
        yield ", ".join(told) or "none was refused"


class ExpertDetails(Result):
    """An expert with its card and what it was measured at."""

    expert: dict[str, Any]
    gains: dict[str, float]
    """Score → mean gain over the base, in its deviations; empty if it is not measured."""
    notes: tuple[str, ...]
    """What is not known of it: no page, no measurement."""
    score_notes: dict[str, str]
    coverage: dict[str, Any] | None = None
    """How well its file was understood: counts of keys, norms by block, evidence."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield its facts, how well its file was understood, then its gains."""
        told = [
            (name, _flat(value))
            for name, value in self.expert.items()
            if value and name not in NOT_TOLD
        ]
        yield rows(("", ""), told)
        yield from self.notes
        if self.coverage:
            yield from _coverage_lines(self.coverage)
        if self.gains:
            yield f"measured on the reference prompts; {GAIN}:"
            yield rows(("score", "gain"), list(self.gains.items()))
            yield from _note_lines(self.score_notes)


class SnapshotDetails(Result):
    """A snapshot's manifest."""

    manifest: dict[str, Any]
    history: tuple[str, ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield the manifest and the ids that are kept."""
        facts = {**self.manifest, "files": sorted(self.manifest["files"])}
        yield rows(("", ""), [(name, _flat(value)) for name, value in facts.items() if value])
        if self.history:
            yield f"kept: {', '.join(self.history)}"


class PlanDetails(Result):
    """A merge plan."""

    id: str
    plan: dict[str, Any]
    coefficients: dict[str, float]
    prompt: str = ""
    seed: int | None = None
    sampler: dict[str, Any] | None = None
    explanation: tuple[str, ...] = ()

    def lines(self) -> Iterator[str | Rows]:
        """Yield what is merged, and how strongly."""
        yield f"plan {self.id} ({self.plan['normalisation']}, {self.plan['rule']})"
        if self.prompt:
            seed = "" if self.seed is None else f" (seed {self.seed})"
            yield f"prompt: {self.prompt}{seed}"
        yield rows(("expert", "coefficient"), list(self.coefficients.items()))


class ExportedGraph(Result):
    """A folder that was written."""

    folder: Path
    snapshot: str

    def lines(self) -> Iterator[str | Rows]:
        """Yield where it is."""
        yield f"{self.folder}: snapshot {self.snapshot}"


def graph(settings: Settings, which: str | None) -> GraphSummary:
    """Return the graph in force."""
    from diffgraph.graph.gains import strongest

    snapshot = Session.of(settings, snapshot=which).graph
    kinds = list(snapshot.kinds)
    return GraphSummary(
        snapshot=snapshot.id,
        family=snapshot.family,
        checkpoints=kinds.count("checkpoint"),
        peft=kinds.count("peft"),
        only_known=snapshot.manifest.experts - len(kinds),
        reference_prompts=len(snapshot.prompt_ids),
        edges=len(snapshot.calibrated) * len(snapshot.prompt_ids),
        uncalibrated=len(snapshot.manifest.uncalibrated),
        strongest={
            score: tuple((ref, name, round(gain, 3)) for ref, name, gain in best)
            for score, best in strongest(snapshot, 3).items()
        },
        score_notes=_score_notes(snapshot.family),
    )


def experts(
    settings: Settings, which: str | None, rejected: bool = False
) -> ExpertList | RefusedExperts:
    """Return all experts, or those that are never merged and why.

    Args:
        settings: where they are.
        which: keeps those of a status, a kind or a format.
        rejected: keeps those that were refused, or whose licence forbids a merge.
    """
    from diffgraph.experts.library import Library

    known = Library(settings.home).experts()
    if rejected:
        refused = (_decision(expert) for expert in known if expert.is_refused)
        wanted = (row for row in refused if which in (None, row["decision"], row["kind"]))
        return RefusedExperts(experts=tuple(wanted))
    found = [expert.model_dump(mode="json") for expert in known]
    if not found:
        found = Session.of(settings).graph.nodes.drop_columns(["embedding"]).to_pylist()
    if which:
        found = [row for row in found if which in (row["status"], row["kind"], row["format"])]
    return ExpertList(experts=tuple(found))


def _decision(expert: "Expert") -> dict[str, Any]:
    """Return the record of what was decided about an expert, and on what grounds."""
    return {
        "expert": expert.ref,
        "name": expert.name,
        "kind": expert.kind,
        "page": expert.page_url,
        "licence": expert.licence.model_dump(mode="json"),
        "duties": expert.licence.duties,
        "pickle_scan": expert.pickle_scan,
        "virus_scan": expert.virus_scan,
        "stated_sha256": expert.stated_sha256,
        "sha256": expert.sha256,
        "decision": expert.status,
        "reason": expert.reason,
    }


def expert(settings: Settings, which: str) -> ExpertDetails:
    """Return one expert by its reference."""
    from diffgraph.experts.library import Library
    from diffgraph.graph.gains import mean_gains

    known = Library(settings.home).find(which)
    try:
        snapshot = Session.of(settings).graph
    except (MissingInput, SnapshotError):
        snapshot = None
    nodes = snapshot.nodes.drop_columns(["embedding"]).to_pylist() if snapshot else []
    node = next((row for row in nodes if row["ref"] == which), None)
    if known is None and node is None:
        raise MissingInput(
            f"no expert {which}: `diffgraph show experts` lists those that are known"
        )
    gains = {}
    if snapshot and which in snapshot.calibrated:
        gains = {name: round(gain, 3) for name, gain in mean_gains(snapshot, which).items()}
    facts = {**(node or {}), **(known.model_dump(mode="json") if known else {})}
    notes = _score_notes(snapshot.family) if snapshot and gains else {}
    return ExpertDetails(
        expert=facts,
        gains=gains,
        notes=_unknown(settings, facts, snapshot),
        score_notes=notes,
        coverage=_coverage(facts),
    )


def _unknown(
    settings: Settings, facts: dict[str, Any], snapshot: "GraphSnapshot | None"
) -> tuple[str, ...]:
    """Return what is not known of an expert: its page, how good it is."""
    from diffgraph.experts.expert import THIN
    from diffgraph.experts.library import Library

    told = []
    with suppress(MissingInput):  # of the family's own, or its page is gone
        if Library(settings.home).listing(facts["ref"]).is_thin:
            told.append(f"{THIN.lower()}: nobody wrote a page of it")
    if snapshot and facts["ref"] in snapshot.manifest.uncalibrated:
        told.append(
            f"not calibrated yet: merged at {facts['recommended_strength']:g}, as its page says or "
            "as is usual, until `diffgraph build` has measured it"
        )
    return tuple(told)


def _score_notes(family: str) -> dict[str, str]:
    """Return what a reader of a family's scores must know, by score."""
    from diffgraph.scoring import scorers_of

    return {name: scorer.note for name, scorer in scorers_of(family).items() if scorer.note}


def _note_lines(notes: dict[str, str]) -> Iterator[str]:
    return (f"{name}: {note}" for name, note in notes.items())


def _coverage(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Take how well a file was understood out of the library's row or the graph's columns."""
    kept = facts.pop("coverage", None)
    columns = {name.removeprefix("keys_"): facts.pop(name, None) for name in COVERAGE}
    if kept or not columns["matched"]:
        return dict(kept) if kept else None
    return {**columns, "norms": dict(columns["norms"]), "bytes": facts.get("size_bytes", 0)}


def _coverage_lines(coverage: dict[str, Any]) -> Iterator[str | Rows]:
    size = f"{coverage['bytes'] / 2**20:.1f} MiB"
    yield (
        f"its file ({size}): {coverage['matched']} keys understood, {coverage['skipped']} without "
        f"a part in a merge, {coverage['unknown']} unknown; it changes {coverage['parameters']} "
        f"parameters and holds {coverage['non_finite']} NaN or infinite numbers"
    )
    for what in ("examples", "evidence"):
        if told := coverage.get(what):
            yield f"{'unknown keys' if what == 'examples' else 'evidence'}: {', '.join(told)}"
    yield rows(("block", "norm of what it adds"), list(coverage["norms"].items()))


def snapshot(settings: Settings, which: str | None) -> SnapshotDetails:
    """Return a snapshot's manifest."""
    from diffgraph.graph.snapshot import snapshot_ids
    from diffgraph.homes import family_folder

    found = Session.of(settings, snapshot=which).graph
    place = family_folder(settings.home, settings.family)
    return SnapshotDetails(
        manifest=found.manifest.model_dump(mode="json"), history=snapshot_ids(place)
    )


def plan(settings: Settings, which: str) -> PlanDetails:
    """Return the plan in any file or folder of ours that holds one."""
    from diffgraph.merging.plan_files import read_plan

    written = read_plan(Path(which))
    found, sampler = written.plan, written.sampler
    return PlanDetails(
        id=found.id,
        plan=found.model_dump(mode="json"),
        coefficients=found.coefficients(),
        prompt=written.prompt,
        seed=written.seed,
        sampler=sampler and sampler.model_dump(mode="json"),
        explanation=written.reasons,
    )


def export(
    settings: Settings,
    out: Path,
    which: str | None,
    form: GraphFormat = GraphFormat.NPZ,
    force: bool = False,
) -> ExportedGraph:
    """Write the graph as COO edges with .npz features, or for PyTorch Geometric."""
    from diffgraph.graph import tensors

    write, files = {
        GraphFormat.NPZ: (tensors.export_npz, (tensors.NAMES, tensors.NODES, tensors.EDGES)),
        GraphFormat.PYG: (tensors.export_pyg, (tensors.PYG,)),
    }[form]
    demand_folder(out, settings, force, files)
    snapshot = Session.of(settings, snapshot=which).graph
    return ExportedGraph(folder=write(snapshot, out), snapshot=snapshot.id)


def _flat(value: Any) -> str:
    """Return a value as a person reads it: commas, few decimals, days."""
    if isinstance(value, dict):
        kept = {name: _flat(part) for name, part in value.items() if part not in ("", None, (), [])}
        return "; ".join(f"{name} {part}" for name, part in kept.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
