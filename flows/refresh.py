"""What changed since yesterday? The nightly run: discover, build, train when it is due."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from diffgraph.errors import MissingInput, SnapshotError
from diffgraph.families import get_family
from diffgraph.graph.snapshot import GraphSnapshot, open_snapshot
from diffgraph.homes import SEEN, family_folder, read_pointer, write_pointer
from diffgraph.planner.planner import Planner
from diffgraph.session.hubs import Hub, hub_of
from diffgraph.session.planners import champion_folder, planner_folder
from diffgraph.settings import Settings
from flows.build_graph import Build, build
from flows.discover import Discovery, discover
from flows.serving.alive import found_dead
from flows.serving.parameters import (
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
from flows.serving.results import Result, Rows
from flows.serving.watched import flow, one_at_a_time
from flows.train_planner import Training, train

DUE_AFTER = 0.1
"""The share of a graph's experts that are news to the planner before it is trained again."""


class Refresh(Result):
    """What the night brought."""

    discovery: Discovery
    build: Build
    training: Training | None
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
) -> Refresh:
    """Bring library, graph and planner up to date with a hub, and say what changed.

    Args:
        path: the hub folder; the one that ships with the family if unset.
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
    """
    settings = Settings()
    family = family or settings.family
    if like is not None:
        planner_folder(settings.home, family, like)  # a slip is told now, not after hours
    hub = hub_of(source, path, url, family)
    found = discover(path=path, family=family, limit=limit, since=since, source=source, url=url)
    built = build(
        family=family, reference_prompts=reference_prompts, candidates=candidates, exclude=exclude
    )
    is_due, why = _is_training_due(settings, family, built, hub)
    trained = None
    if is_due:
        trained = train(
            built.snapshot, steps=steps, prompts=training_prompts, family=family, like=like
        )
        # killed before: trained again
        write_pointer(family_folder(settings.home, family) / SEEN, built.snapshot)
    night = Refresh(discovery=found, build=built, training=trained, why=why, died=found_dead())
    publish(night, key="what-changed")
    return night


def _is_training_due(settings: Settings, family: str, built: Build, hub: Hub) -> tuple[bool, str]:
    """Return whether the planner knows too little of this graph, and the reason in words."""
    if not built.mergeable:
        return False, "training is not due: no expert can be merged"
    try:
        planner = Planner.load(champion_folder(settings.home, family))
    except MissingInput:
        return True, "training is due: there is no planner yet"
    if planner.config.snapshot == built.snapshot:
        return False, "training is not due: the planner was trained on this very graph"
    if built.parent is None and hub == Hub(path=get_family(family).hub):
        return False, "training is not due: the planner that ships was made for this hub"
    place = family_folder(settings.home, family)
    # since the last training, not since last night: what a killed night brought is not forgotten
    seen = _graph_seen(place) or _graph(place, planner.config.snapshot)
    news = open_snapshot(place, built.snapshot).difference(seen)
    changed = len(news.new) + len(news.updated) + len(news.retired)
    share = changed / max(built.mergeable, 1)
    if share < DUE_AFTER:
        return False, f"training is not due: {100 * share:.0f} % of the experts changed"
    return True, f"training is due: {100 * share:.0f} % of the experts changed"


def _graph_seen(place: Path) -> GraphSnapshot | None:
    """Return the graph that training was last tried on, whether its planner won or not."""
    try:
        seen = read_pointer(place / SEEN)
    except MissingInput:
        return None
    return _graph(place, seen) if seen else None


def _graph(place: Path, snapshot_id: str) -> GraphSnapshot | None:
    """Return a graph of the family; none if it is not there, or is damaged."""
    try:
        return open_snapshot(place, snapshot_id)
    except SnapshotError:
        return None
