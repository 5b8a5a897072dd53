"""What does Civitai's public REST API answer?

    GET  /api/v1/models                        the list, by cursor
    GET  /api/v1/models/{id}
    GET  /api/v1/model-versions/{id}
    GET  /api/v1/model-versions/by-hash/{hash}
    POST /api/v1/model-versions/by-hash        up to 100 SHA-256
    GET  /api/v1/images

https://developer.civitai.com/docs/api/public-rest. A server that gives the same answers is a hub as
good. Only cursors are taken from an answer, never addresses: `nextPage` could lead anywhere.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from diffgraph.crawlers.paging import GarbledPage
from diffgraph.crawlers.web import BadAnswer, Query, Turn, Web, WebConfig, address_of, decoded

CIVITAI = "https://civitai.com"
VARIABLE = "DIFFGRAPH_CIVITAI_URL"
HASHES_AT_ONCE = 100
IMAGES_AT_ONCE = 200
CURSOR_CHARACTERS = 1000
NEXT_CURSOR = re.compile(rb'"nextCursor"\s*:\s*("(?:[^"\\]|\\.){1,1000}"|\d{1,18})')


@dataclass(frozen=True)
class ModelQuery:
    """Which models are listed, and in which order.

    The hub narrows the list by type and base model only, so that an expert refused for another
    reason is counted.
    """

    types: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    oldest_first: bool = False

    def parameters(self, limit: int, cursor: str | None) -> Query:
        """Return the query of one request."""
        chosen: dict[str, str | int | list[str]] = {
            "limit": limit,
            "sort": "Oldest" if self.oldest_first else "Newest",
        }
        if self.types:
            chosen["types"] = list(self.types)
        if self.base_models:
            chosen["baseModels"] = list(self.base_models)
        if self.ids:
            chosen["ids"] = ",".join(self.ids)
        if cursor is not None:
            chosen["cursor"] = cursor
        return chosen


@dataclass(frozen=True)
class ModelPage:
    """One answer of the list."""

    items: Sequence[object]
    next_cursor: str | None  # None behind the last one
    is_cut: bool = False  # it goes on, and the cursor cannot be used


class CivitaiClient:
    """Asks a hub that speaks Civitai's API, on one event loop.

    Args:
        url: The hub's address.
        token: The API token; it is needed for speed and private files only.
        config: How politely and patiently.
        turn: Awaited before every request, for a limit that is shared with others.

    Raises:
        InputError: The address cannot be used.
    """

    def __init__(
        self,
        url: str = CIVITAI,
        token: SecretStr | None = None,
        config: WebConfig | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.web = Web(address_of(url, VARIABLE), token, config, turn)

    async def close(self) -> None:
        """Close the connections."""
        await self.web.close()

    async def models(
        self, query: ModelQuery, cursor: str | None = None, limit: int = 100
    ) -> ModelPage:
        """Return one page of the list.

        Raises:
            GarbledPage: It is not JSON, or no list.
            BadAnswer: It is too large; a smaller `limit` may do.
            ServiceError: The hub fails or refuses.
        """
        body = await self.web.get("/api/v1/models", query.parameters(limit, cursor))
        try:
            answer = decoded(body, "an answer")
        except BadAnswer as error:
            raise GarbledPage(str(error), _cursor_in(body)) from None
        if not isinstance(answer, Mapping) or not isinstance(answer.get("items"), list):
            raise GarbledPage("an answer has no list of items", _cursor_in(body))
        metadata = answer.get("metadata")
        cursor = _next_cursor(metadata)
        return ModelPage(answer["items"], cursor, cursor is None and _goes_on(metadata))

    async def model(self, number: str) -> object:
        """Return one model's page; raises `NotFound` if it has none."""
        return await self._json(f"/api/v1/models/{number}")

    async def version(self, number: str) -> object:
        """Return one version; raises `NotFound`."""
        return await self._json(f"/api/v1/model-versions/{number}")

    async def by_hash(self, value: str) -> object:
        """Return the version whose file has this hash, of any kind; raises `NotFound`."""
        return await self._json(f"/api/v1/model-versions/by-hash/{value}")

    async def by_hashes(self, values: Collection[str]) -> list[object]:
        """Return the versions whose files have these SHA-256, without those not found."""
        found: list[object] = []
        wanted = list(values)
        for start in range(0, len(wanted), HASHES_AT_ONCE):
            some = wanted[start : start + HASHES_AT_ONCE]
            path = "/api/v1/model-versions/by-hash"
            answer = decoded((await self.web.ask("POST", path, content=some)).body, path)
            found.extend(answer if isinstance(answer, list) else ())
        return found

    async def images(self, version: str, limit: int = IMAGES_AT_ONCE) -> list[object]:
        """Return example images of a version, with what they were made from."""
        query: Query = {
            "modelVersionId": version,
            "limit": min(limit, IMAGES_AT_ONCE),
            "withMeta": "true",
            "nsfw": "None",
        }
        answer = decoded(await self.web.get("/api/v1/images", query), "/api/v1/images")
        items = answer.get("items") if isinstance(answer, Mapping) else None
        return list(items) if isinstance(items, list) else []

    async def _json(self, path: str) -> object:
        return decoded(await self.web.get(path), path)


def _next_cursor(metadata: object) -> str | None:
    """Return where the next page begins: a cursor, or the one in the next page's address."""
    if not isinstance(metadata, Mapping):
        return None
    cursor = _as_cursor(metadata.get("nextCursor"))
    if cursor is None and isinstance(address := metadata.get("nextPage"), str):
        try:
            query = parse_qs(urlsplit(address).query)
        except ValueError:
            return None
        cursor = _as_cursor(next(iter(query.get("cursor", ())), None))
    return cursor


def _goes_on(metadata: object) -> bool:
    """Return whether more is promised, be it in a way that we cannot follow."""
    if not isinstance(metadata, Mapping):
        return False
    address = metadata.get("nextPage")
    return metadata.get("nextCursor") not in (None, "") or (
        isinstance(address, str) and address != ""
    )


def _as_cursor(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= CURSOR_CHARACTERS and value.isprintable():
        return value
    return None


def _cursor_in(body: bytes) -> str | None:
    """Return the cursor that stands in a body that is not JSON as a whole."""
    found = NEXT_CURSOR.findall(body)
    try:
        return _as_cursor(json.loads(found[-1])) if found else None
    except ValueError:
        return None
