"""What changed since yesterday? The nightly run: discover, build, train when it is due."""

from collections.abc import Iterator
from datetime import datetime

from diffgraph.crawlers.changes import Discovery
from diffgraph.homes import SEEN, family_folder, write_pointer
from diffgraph.results import Result, Rows
from diffgraph.session.building import BuildResult
from diffgraph.session.hubs import hub_of
from diffgraph.session.planners import planner_folder
from diffgraph.session.training_due import is_training_due
from diffgraph.settings import Settings
from flows.build_graph import build
from flows.discover import discover
from flows.serving.alive import found_dead
from flows.serving.parameter_types import (
    Address,
    Identifier,
    Limit,
    Name,
    Place,
    ReferencePrompts,
    Source,
    Steps,
    TrainingPrompts,
)
from flows.serving.publishing import publish
from flows.serving.watched import flow, one_at_a_time
from flows.train_planner import TrainingResult, train


class RefreshResult(Result):
    """What the night brought."""

    discovery: Discovery
    build: BuildResult
    training: TrainingResult | None
    why: str
    """Why the planner was trained, or was not."""
    died: tuple[str, ...] = ()
    """Runs before this one that were killed; they are marked as crashed now."""

    def lines(self) -> Iterator[str | Rows]:
        """Yield each stage's own words."""
        yield from self.died
        yield from self.discovery.lines()
        yield from self.build.lines()
        yield self.why
        if self.training is not None:
            yield from self.training.lines()


@flow(name="refresh")
@one_at_a_time("refresh")
def refresh(  # noqa: PLR0913 (the parameters of a deployment are its form)
    path: Place | None = None,
    family: Name | None = None,
    reference_prompts: ReferencePrompts | None = None,
    steps: Steps | None = None,
    training_prompts: TrainingPrompts | None = None,
    candidates: Place | None = None,
    exclude: tuple[Place, ...] = (),
    source: Source = "folder",
    url: Address | None = None,
    since: datetime | None = None,
    limit: Limit | None = None,
    like: Identifier | None = None,
    also: tuple[Place, ...] = (),
    online: bool = False,
) -> RefreshResult:
    """Bring library, graph and planner up to date with a hub, and say what changed.

    Args:
        path: a hub folder, or any folder of weights files; the hub that ships if unset.
        family: the model family; the setting if unset.
        reference_prompts: prompts that every expert is measured on.
        steps: of the training, if it is due.
        training_prompts: it practises on so many at most.
        candidates: choose reference prompts from this file; from the bundled ones if unset.
        exclude: files of prompts that must not be reference prompts.
        source: the kind of hub: `folder`, `civitai` or `huggingface`.
        url: the address of a live hub; the setting's if unset.
        since: look only at experts that were published since.
        limit: take so many new or changed experts at most.
        like: if training is due, train as this planner was: its id, or `shipped`.
        also: more folders, each as `path`; one that is missing tonight is told and kept.
        online: ask Civitai, by hash, for files of a folder of which little is known.
    """
    settings = Settings()
    family = family or settings.family
    if like is not None:
        planner_folder(settings.home, family, like)  # a slip is told now, not after hours
    hub = hub_of(source, path, url, family, online)
    found = discover(
        path=path,
        family=family,
        limit=limit,
        since=since,
        source=source,
        url=url,
        also=also,
        online=online,
    )
    built = build(
        family=family, reference_prompts=reference_prompts, candidates=candidates, exclude=exclude
    )
    is_due, why = is_training_due(
        settings.home,
        family,
        built.snapshot,
        hub,
        is_first=built.parent is None and not also,  # their experts are news to what ships
    )
    trained = None
    if is_due:
        trained = train(
            built.snapshot, steps=steps, prompts=training_prompts, family=family, like=like
        )
        # killed before: trained again
        write_pointer(family_folder(settings.home, family) / SEEN, built.snapshot)
    night = RefreshResult(
        discovery=found, build=built, training=trained, why=why, died=found_dead()
    )
    publish(night, key="what-changed")
    return night
