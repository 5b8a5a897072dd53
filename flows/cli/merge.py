"""Writes a plan as a model file, a LoRA, or a prompt of another tool."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffgraph.merging.other_tools import said_to
from diffgraph.merging.plan_files import read_plan
from diffgraph.progress import report
from diffgraph.results import Result, Rows
from diffgraph.session import Session
from diffgraph.session.merged_files import MergedFile
from diffgraph.settings import Settings
from flows.cli.options import PromptSyntax

STAGE = "merge"
MILLION = 10**6


class TranslatedPlan(Result):
    """A plan in the words of another tool."""

    syntax: str
    text: str
    checkpoint: str = ""
    """The checkpoint to choose beside bare tags, if it is not the base."""
    plan_id: str
    debts: tuple[str, ...]

    def lines(self) -> Iterator[str | Rows]:
        """Yield the text alone, to be copied; tags have no place for the checkpoint."""
        if self.checkpoint:
            yield f"checkpoint: {self.checkpoint}"
        yield from self.text.splitlines()


def merge(plan_file: Path, settings: Settings, out: str, **how: Any) -> MergedFile:
    """Write what a plan makes of its base: see `Session.merge`, which takes and raises the same."""
    plan = read_plan(plan_file).plan
    session = Session.of(settings, plan.family)
    return session.merge(plan, out, on_progress=_progress, **how)


def say(plan_file: Path, settings: Settings, syntax: PromptSyntax) -> TranslatedPlan:
    """Return a plan in another tool's words.

    Args:
        plan_file: a plan, or any file or folder of ours that holds one.
        settings: where things are.
        syntax: the tool.

    Raises:
        LicenceForbids: an expert's licence forbids derivatives.
        PlanError: the tool has no words for such a plan.
    """
    from diffgraph.session.drawing import settings_of

    written = read_plan(plan_file)
    plan, prompt = written.plan, written.prompt
    session = Session.of(settings, plan.family)
    sources = session.experts.sources(plan, hashed=True)
    sampler, seed = written.sampler, written.seed or 0
    drawn = settings_of(session, plan, prompt, sampler, seed) if prompt else None
    has_place = drawn is not None or syntax is not PromptSyntax.A1111
    return TranslatedPlan(
        syntax=syntax.value,
        text=said_to(syntax.value, sources, drawn),
        checkpoint="" if has_place else sources.files.get(sources.checkpoint or "", ""),
        plan_id=plan.id,
        debts=sources.debts,
    )


def _progress(file: Path, done: int, total: int) -> None:
    """Report how far a file is: in millions, of which a small file has one."""
    millions = -(-total // MILLION)
    whole = millions if done == total else min(done // MILLION, millions - 1)
    if whole:  # else there is nothing to see yet
        report(STAGE, whole, millions, f"(millions of numbers) {'/'.join(file.parts[-2:])}")
