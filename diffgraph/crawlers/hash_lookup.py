"""What does a hub know of a file, by its content alone?

A hub that speaks Civitai's API is asked for the SHA-256 of files, a hundred in a request, and for
the pages of those it knows. Nothing else of a file is sent. Its answers, "unknown" among them, are
kept in the library with their day; they are asked for again when they are old.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError

from diffgraph.crawlers.civitai_client import CivitaiClient, ModelQuery
from diffgraph.crawlers.civitai_pages import FILES, SHA256, text
from diffgraph.crawlers.file_metadata import FileMetadata
from diffgraph.crawlers.sidecars import read_version
from diffgraph.crawlers.web import Background, NotFound
from diffgraph.errors import ServiceRefused, UnusableListing
from diffgraph.experts.library import Library
from diffgraph.experts.line_store import LineStore

log = logging.getLogger(__name__)

VERSIONS_AT_ONCE = 1000  # in an answer to a hundred hashes
KEPT_FOR = timedelta(days=30)

Page = Mapping[str, Any]


class HashAnswer(BaseModel, frozen=True):
    """What a hub said of a file."""

    hub: str
    asked_at: datetime
    metadata: FileMetadata | None
    """None: it does not know the file."""

    @property
    def is_old(self) -> bool:
        """Whether to ask again."""
        return datetime.now(UTC) - self.asked_at > KEPT_FOR


class HashAnswers:
    """The answers that a library keeps.

    Args:
        library: Where they are kept.
    """

    def __init__(self, library: Library) -> None:
        self._lines = LineStore(library.folder / "hash_answers.jsonl")

    def __bool__(self) -> bool:
        """Whether there is any."""
        return len(self._lines) > 0

    def of(self, sha256: str) -> HashAnswer | None:
        """Return what was said of a file; None if nobody asked."""
        kept = self._lines.get(sha256)
        try:
            return HashAnswer.model_validate_json(kept) if kept is not None else None
        except ValidationError:
            return None  # damaged: it is asked for again

    def keep(self, answers: Mapping[str, HashAnswer]) -> None:
        """Keep answers; raises `StorageError`."""
        self._lines.put((sha256, one.model_dump_json()) for sha256, one in answers.items())


class HashLookup:
    """Asks a hub, on a loop of its own.

    Args:
        client: Asks it.
        background: Where requests run.
    """

    def __init__(self, client: CivitaiClient, background: Background) -> None:
        self._client, self._background = client, background
        self.hub = client.web.url

    @classmethod
    @contextmanager
    def opened(cls, client: CivitaiClient) -> "Iterator[HashLookup]":
        """Yield what asks with this client, and close it."""
        background = Background()
        try:
            yield cls(client, background)
        finally:
            background.wait(client.close())
            background.close()

    def ask(self, hashes: Collection[str]) -> dict[str, HashAnswer]:
        """Return what the hub says of files by their SHA-256, an answer each.

        Raises:
            ServiceError: It fails or refuses.
        """
        return self._background.wait(self._ask(hashes))

    async def _ask(self, hashes: Collection[str]) -> dict[str, HashAnswer]:
        wanted = frozenset(hashes)
        versions = await self._versions(wanted)
        models = await self._models({_id(version.get("modelId")) for version in versions.values()})
        now = datetime.now(UTC)
        return {
            sha256: HashAnswer(
                hub=self.hub,
                asked_at=now,
                metadata=_metadata(versions[sha256], models, sha256)
                if sha256 in versions
                else None,
            )
            for sha256 in sorted(wanted)
        }

    async def _versions(self, wanted: frozenset[str]) -> dict[str, Page]:
        """Return the version of each file that is known, asked singly where batches are refused."""
        try:
            found = await self._client.by_hashes(wanted)
        except ServiceRefused as error:
            log.debug("%s; files are asked for one by one", error)
            found = []
            for sha256 in sorted(wanted):
                try:
                    found.append(await self._client.by_hash(sha256))
                except NotFound:
                    continue
        pages = [page for page in found[:VERSIONS_AT_ONCE] if isinstance(page, Mapping)]
        return {sha256: page for page in pages for sha256 in _hashes(page) & wanted}

    async def _models(self, ids: Collection[str]) -> dict[str, Page]:
        """Return the pages of models: a version does not say what its licence allows."""
        known = tuple(sorted(filter(None, ids)))
        if not known:
            return {}
        try:
            page = await self._client.models(ModelQuery(ids=known), limit=len(known))
        except ServiceRefused as error:
            log.debug("%s; the licences stay unknown", error)
            return {}
        return {_id(item.get("id")): item for item in page.items if isinstance(item, Mapping)}


def _metadata(version: Page, models: Mapping[str, Page], sha256: str) -> FileMetadata | None:
    """Return what a version and its model's page say; None if it cannot be read."""
    inside = version.get("model")
    page = models.get(_id(version.get("modelId")), {})
    model = {**(inside if isinstance(inside, dict) else {}), **page}
    model.pop("modelVersions", None)
    try:
        found = read_version({**version, "model": model}, "the hub's answer")
    except UnusableListing as error:
        log.warning("what the hub says of %s… cannot be read: %s", sha256[:12], error)
        return None
    return found.model_copy(update={"sha256": sha256, "size_bytes": 0})


def _hashes(version: Page) -> frozenset[str]:
    """Return the SHA-256 of a version's files."""
    files = version.get("files")
    stated = [
        file.get("hashes")
        for file in (files[:FILES] if isinstance(files, list) else ())
        if isinstance(file, Mapping)
    ]
    texts = (text(one.get("SHA256"), 64).lower() for one in stated if isinstance(one, Mapping))
    return frozenset(filter(SHA256.fullmatch, texts))


def _id(value: object) -> str:
    is_one = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**18
    return str(value) if is_one else ""
