"""Which experts does a hub offer, and which of them can we use?"""

from datetime import datetime

from diffgraph.crawlers.changes import Discovery
from diffgraph.session.hubs import hub_of
from diffgraph.settings import Settings
from flows.serving.parameter_types import Address, Limit, Name, Place, Source
from flows.serving.publishing import publish
from flows.serving.watched import flow, one_at_a_time
from tasks.building import register_library
from tasks.discovery import look_at_hub


@flow(name="discover")
@one_at_a_time("discover")
def discover(  # noqa: PLR0913 (the parameters of a deployment are its form)
    path: Place | None = None,
    family: Name | None = None,
    limit: Limit | None = None,
    since: datetime | None = None,
    metadata_only: bool = False,
    source: Source = "folder",
    url: Address | None = None,
    also: tuple[Place, ...] = (),
    online: bool = False,
) -> Discovery:
    """Bring the library up to date with a hub.

    Args:
        path: a hub folder, or any folder of weights files; the hub that ships if unset.
        family: the model family; the setting if unset.
        limit: take so many new or changed experts at most.
        since: look only at experts that were published since.
        metadata_only: read pages, fetch no weights.
        source: the kind of hub: `folder`, or one that is live.
        url: the address of a live hub; the setting's if unset.
        also: more folders, each as `path`.
        online: ask Civitai, by hash, for files of a folder of which little is known.
    """
    settings = Settings()
    family = family or settings.family
    found = Discovery.together(
        [
            look_at_hub(hub, settings.home, family, limit, since, metadata_only)
            for hub in [hub_of(source, one, url, family, online) for one in (path, *also)]
        ]
    )
    graph = register_library(settings.home, family, settings.agent)
    if graph is not None:
        found = found.model_copy(update={"uncalibrated": len(graph.manifest.uncalibrated)})
    publish(found, key="refused-experts")
    return found
