"""What is a merged file made of, may it be made, and what is owed for it?

Every file of ours says in its metadata which plan made it from which experts. The same plan gives
the same bytes, so there is no date in it.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from diffgraph.artifacts import sha256_of
from diffgraph.errors import LicenceForbids, MissingInput, PlanError
from diffgraph.experts.expert import NOT_KNOWN, Expert
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.plan_files import DEBTS, EXPERTS

MERGEABLE = ("ready", "superseded", "retired")
"""What was merged once stays reproducible when a newer version comes or the page goes."""

ARCHITECTURES: Mapping[str, str] = {"sd15": "stable-diffusion-v1", "flux": "flux-1-dev"}
"""What https://github.com/Stability-AI/ModelSpec calls our families."""

COMMERCIAL_USES = ("Image", "RentCivit", "Rent", "Sell")
"""The commercial uses that hubs name. A licence with a name of its own says for itself."""


class ExpertLookup(Protocol):
    """Where experts' rows and files are: `diffgraph.experts.library.Library`."""

    def get(self, ref: str) -> Expert:
        """Return the expert of this reference, or raise `MissingInput`."""
        ...

    def path_of(self, sha256: str) -> Path:
        """Return the weights file with this content, or raise `MissingInput`."""
        ...


def experts_of(plan: MergePlan, library: ExpertLookup) -> dict[str, Expert]:
    """Return the rows of the experts with a part in a plan, by reference.

    Raises:
        LicenceForbids: one forbids derivatives, and a merge is one.
        PlanError: one is not known, not usable, or not what the plan says.
    """
    coefficients = plan.coefficients()
    return {
        planned.ref: expert_of(planned, plan.family, library)
        for planned in plan.experts
        if coefficients[planned.ref] != 0
    }


def expert_of(planned: PlannedExpert, family: str, library: ExpertLookup) -> Expert:
    """Return the row of a planned expert; raises as `experts_of`."""
    try:
        expert = library.get(planned.ref)
    except MissingInput as error:
        raise PlanError(f"the plan needs {planned.ref}: {error}") from error
    if not expert.licence.allow_derivatives or expert.status == "registered_only":
        reason = expert.reason or "its page forbids derivatives"
        raise LicenceForbids(f"{planned.ref} may not be merged: {reason}")
    if expert.status not in MERGEABLE:
        raise PlanError(f"{planned.ref} is {expert.status}: {expert.reason}")
    for what, ours, theirs in (
        ("family", expert.family, family),
        ("kind", expert.kind, planned.kind),
        ("file", expert.sha256, planned.sha256 or expert.sha256),
    ):
        if ours != theirs:
            raise PlanError(f"{planned.ref}: its {what} is {ours}, the plan needs {theirs}")
    return expert


def with_hashes(plan: MergePlan, library: ExpertLookup) -> MergePlan:
    """Return a plan that names the very file of each expert with a part in it.

    Raises:
        LicenceForbids, PlanError: as `experts_of`, of an expert whose file the plan does not name.
    """
    if all(planned.sha256 for planned in plan.experts):
        return plan
    coefficients = plan.coefficients()
    named = [
        planned.model_copy(update={"sha256": expert_of(planned, plan.family, library).sha256})
        if not planned.sha256 and coefficients[planned.ref] != 0
        else planned
        for planned in plan.experts
    ]
    return plan.model_copy(update={"experts": tuple(named)})


def files_of(experts: Mapping[str, Expert], library: ExpertLookup) -> dict[str, Path]:
    """Return the experts' files, by reference, each as it was when the expert was listed.

    Raises:
        PlanError: a file is gone or has changed.
    """
    paths = {}
    for ref, expert in experts.items():
        try:
            paths[ref] = library.path_of(expert.sha256)
        except MissingInput as error:
            raise PlanError(f"the plan needs {ref}: {error}") from error
    with ThreadPoolExecutor() as pool:
        hashes = dict(zip(paths, pool.map(sha256_of, paths.values()), strict=True))
    for ref, found in hashes.items():
        wanted = experts[ref].sha256
        if found != wanted:
            raise PlanError(f"{ref}: {paths[ref]} has changed: {found[:12]}…, not {wanted[:12]}…")
    return paths


def licence_duties(experts: Iterable[Expert]) -> tuple[str, ...]:
    """Return what the experts' licences ask of whoever passes the merge on, a line each."""
    lines = []
    for expert in experts:
        licence = expert.licence
        named = f"{expert.name} ({expert.ref})"
        if licence.name.startswith(NOT_KNOWN):
            lines.append(f"ask the maker of {named} before sharing: its licence is not known")
            continue
        if licence.credit_required:
            lines.append(f"credit {named}" + (f" by {licence.creator}" if licence.creator else ""))
        if not licence.allow_different_licence:
            lines.append(f"keep the licence of {named}" + _named(licence.name))
        refused = [use for use in COMMERCIAL_USES if use not in licence.allow_commercial_use]
        if refused and (licence.allow_commercial_use or not licence.name):
            lines.append(f"{named} may not be used for: {', '.join(refused)}")
    return tuple(lines)


def provenance(
    plan: MergePlan, experts: Mapping[str, Expert], version: str, made: str
) -> dict[str, str]:
    """Return what a file's metadata say of how it was made: texts by name.

    `version` is this package's, `made` what the file is: a merged model, a LoRA.
    """
    creators = sorted({expert.licence.creator for expert in experts.values()} - {""})
    licences = sorted({expert.licence.name for expert in experts.values()} - {""})
    return {
        "format": "pt",  # without it transformers refuses a file
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": ARCHITECTURES.get(plan.family, plan.family),
        "modelspec.title": f"diffgraph {plan.id}",
        "modelspec.description": made,
        "modelspec.author": ", ".join(creators),
        "modelspec.license": ", ".join(licences),
        "diffgraph.version": version,
        "diffgraph.plan_id": plan.id,
        "diffgraph.plan": plan.model_dump_json(),
        **told_credits(plan, experts),
    }


def credits(plan: MergePlan, experts: Mapping[str, Expert]) -> list[dict[str, Any]]:
    """Return who made each expert with a part in a plan, and under which licence."""
    coefficients = plan.coefficients()
    return [
        {
            "ref": ref,
            "name": expert.name,
            "kind": expert.kind,
            "sha256": expert.sha256,
            "coefficient": coefficients[ref],
            "page": expert.page_url,
            "licence": expert.licence.model_dump(mode="json"),
        }
        for ref, expert in sorted(experts.items())
    ]


def told_credits(plan: MergePlan, experts: Mapping[str, Expert]) -> dict[str, str]:
    """Return the same and what is owed, as a file or an image says it: texts by name."""
    return {
        EXPERTS: json.dumps(credits(plan, experts), ensure_ascii=False),
        DEBTS: "\n".join(licence_duties(experts[ref] for ref in sorted(experts))),
    }


def _named(licence: str) -> str:
    return f": {licence}" if licence else ""
