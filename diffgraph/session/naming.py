"""What are the experts that are known here called, and which of them cannot be merged?"""

from typing import TYPE_CHECKING

from diffgraph.planner.expert_names import ExpertNames
from diffgraph.session.known_experts import KnownExperts

if TYPE_CHECKING:
    from diffgraph.experts.expert import Expert
    from diffgraph.graph.snapshot import GraphSnapshot


def expert_names(graph: "GraphSnapshot", known: KnownExperts) -> ExpertNames:
    """Return the names of a graph's experts, and of all that the library knows."""
    described = graph.nodes["ref"].to_pylist()
    experts = {ref: known.bundled[ref] for ref in described if ref in known.bundled}
    experts |= {expert.ref: expert for expert in known.library.experts()}
    names = {ref: [expert.name] for ref, expert in experts.items()}
    names |= {ref: [name] for ref, name in zip(graph.refs, graph.names, strict=True)}
    listed = {ref: experts[ref] for ref in names if ref in experts}
    for ref, file in known.as_listed(listed)[1].items():
        names[ref].append(file)
    removed = known.library.removals.among(names)
    mergeable = set(graph.refs)
    unusable = {
        ref: _why_unusable(expert, graph.family)
        for ref, expert in experts.items()
        if ref not in mergeable
    }
    return ExpertNames(names, {**unusable, **removed})


def _why_unusable(expert: "Expert", family: str) -> str:
    if expert.family != family:
        return f"it is made for {expert.family}, not for {family}"
    if not expert.licence.allow_derivatives:
        return "its licence forbids derivatives"
    if expert.status != "ready":
        return f"it is {expert.status}{f': {expert.reason}' if expert.reason else ''}"
    return "it is not in the graph yet: `diffgraph build` adds it"
