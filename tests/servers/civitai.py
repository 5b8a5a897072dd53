"""A hub that speaks Civitai's public REST API v1 on 127.0.0.1, for tests and benchmarks.

    with CivitaiServer(pages(1000)) as hub:
        …  # hub.url

or, as a process of its own that ends with its standard input:

    python -m tests.servers.civitai --pages 10000

It can change while it is read (`publish`, `unpublish`), want a token, offer files for download
from a second server as Civitai's storage does, and fail in every way (see `local_server`).
"""

import argparse
import bisect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlencode

from tests.servers.civitai_pages import pages
from tests.servers.local_server import LocalServer, Reply, Request

LARGEST_LIMIT = 100
LOGIN = b"<!doctype html><html><title>Sign in</title><body>Please sign in.</body></html>"

Page = Mapping[str, Any]
Key = tuple[str, int]


@dataclass(frozen=True)
class _Entry:
    """A page as it is sent, and what it is found by."""

    key: Key  # when its newest version was published, and its id
    type: str
    base_models: frozenset[str]
    nsfw: bool
    body: bytes


class CivitaiServer(LocalServer):
    """A hub with these pages.

    Args:
        models: Items of `GET /api/v1/models`. Texts in JSON are kept as they are, broken or not.
        files: Weights by the id of their version; a path or the bytes.
        tokens: Those that are accepted; any other one is answered with 401.
        private: Whether files are given only to those with a token.
        paging: `keyset` cursors say behind which item to go on, as the hub's do. `offset` cursors
            count items: what is published or withdrawn meanwhile shifts them.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        models: Iterable[Page] = (),
        *,
        files: Mapping[int, Path | bytes] | None = None,
        tokens: Iterable[str] = (),
        private: bool = False,
        paging: Literal["keyset", "offset"] = "keyset",
        port: int = 0,
    ) -> None:
        super().__init__(port)
        self.files = dict(files or {})
        self.tokens = set(tokens)
        self.private = private
        self.paging = paging
        self.login_page = False  # whether those without a token are sent to a page to sign in
        self.storage = Storage(self.files)
        self._entries: dict[int, _Entry] = {}
        self._keys: list[Key] = []  # ascending
        self._versions: dict[int, int] = {}
        self._hashes: dict[str, int] = {}
        self._hooks: dict[int, Callable[[], None]] = {}
        self._lists = 0
        self._host = self.url
        for model in models:
            self.publish(model)

    def __enter__(self) -> Self:
        self.storage.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.storage.__exit__(*error)

    def __len__(self) -> int:
        return len(self._entries)

    def publish(self, model: Page, body: bytes | None = None) -> None:
        """Add a page, or change it; `body` is sent instead of its JSON."""
        number = int(model["id"])
        with self._lock:
            self.unpublish(number)
            versions = [v for v in model.get("modelVersions") or () if isinstance(v, Mapping)]
            published = max((str(v.get("publishedAt") or "") for v in versions), default="")
            entry = _Entry(
                (published, number),
                str(model.get("type")),
                frozenset(str(v.get("baseModel")) for v in versions),
                model.get("nsfw") is True,
                self._body(model) if body is None else body,
            )
            self._entries[number] = entry
            bisect.insort(self._keys, entry.key)
            for version in versions:
                if isinstance(version.get("id"), int):
                    self._versions[version["id"]] = number
                for file in version.get("files") or ():
                    hashes = file.get("hashes") if isinstance(file, Mapping) else None
                    for value in (hashes or {}).values():
                        self._hashes[str(value).upper()] = version["id"]

    def _body(self, model: Page) -> bytes:
        """Return a page as it is sent: what it links to is on this server."""
        return json.dumps(model).replace("https://civitai.com/", f"{self._host}/").encode()

    def unpublish(self, number: int) -> None:
        with self._lock:
            entry = self._entries.pop(number, None)
            if entry is not None:
                self._keys.remove(entry.key)

    def before_list(self, number: int, hook: Callable[[], None]) -> None:
        """Do something before the list is asked for the `number`-th time (from 1)."""
        self._hooks[number] = hook

    def answer(self, request: Request) -> Reply:
        if request.token and request.token not in self.tokens:
            return Reply.json({"error": "Unauthorized"}, 401)
        parts = request.path.strip("/").split("/")
        match parts:
            case ["api", "v1", "models"]:
                return self._list(request)
            case ["api", "v1", "models", number]:
                return self._model(number)
            case ["api", "v1", "model-versions", "by-hash"] if request.method == "POST":
                return self._by_hashes(request)
            case ["api", "v1", "model-versions", "by-hash", value]:
                return self._version(self._hashes.get(value.upper()))
            case ["api", "v1", "model-versions", number]:
                return self._version(int(number) if number.isdecimal() else None)
            case ["api", "v1", "images"]:
                return self._images(request)
            case ["api", "download", "models", number]:
                return self._download(request, number)
            case ["login"]:
                return Reply(200, LOGIN, {"Content-Type": "text/html; charset=utf-8"})
        return Reply.json({"error": "Not found"}, 404)

    def _list(self, request: Request) -> Reply:
        self._lists += 1
        if hook := self._hooks.pop(self._lists, None):
            hook()
        limit = min(int(request.get("limit", "100")), LARGEST_LIMIT)
        if int(request.get("page", "0")) * limit > 1000:
            return Reply.json({"error": "use cursor based pagination"}, 429)
        if ids := request.get("ids"):
            wanted = [self._entries.get(int(number)) for number in ids.split(",")]
            found = [entry for entry in wanted if entry and _is_wanted(entry, request)]
            return self._answer_with(request, found[:limit], None)
        newest_first = request.get("sort", "Newest") != "Oldest"
        start = self._start(request.get("cursor"), newest_first)
        if start is None:
            return Reply.json({"error": "Invalid cursor"}, 400)
        order = range(start, len(self._keys)) if not newest_first else range(start, -1, -1)
        found, after = [], None
        for place in order:
            entry = self._entries[self._keys[place][1]]
            if not _is_wanted(entry, request):
                continue
            if len(found) == limit:
                after = place
                break
            found.append(entry)
        if after is None:
            return self._answer_with(request, found, None)
        if self.paging == "offset":
            cursor = str(after if not newest_first else len(self._keys) - 1 - after)
        else:
            cursor = "{}|{}".format(*self._keys[after])
        return self._answer_with(request, found, cursor)

    def _start(self, cursor: str, newest_first: bool) -> int | None:
        """Return the place of the first item behind a cursor; None if it is not one of ours."""
        last = len(self._keys) - 1
        if not cursor:
            return last if newest_first else 0
        if self.paging == "offset":
            offset = int(cursor)
            return last - offset if newest_first else offset
        published, divider, number = cursor.rpartition("|")
        if not divider or not number.isdecimal():
            return None
        key = (published, int(number))
        if newest_first:
            return bisect.bisect_right(self._keys, key) - 1
        return bisect.bisect_left(self._keys, key)

    def _answer_with(self, request: Request, found: list[_Entry], cursor: str | None) -> Reply:
        metadata: dict[str, Any] = {"pageSize": len(found)}
        if cursor is not None:
            query = {name: values for name, values in request.query.items() if name != "cursor"}
            query["cursor"] = [cursor]
            metadata |= {
                "nextCursor": cursor,
                "nextPage": f"{self._host}{request.path}?{urlencode(query, doseq=True)}",
            }
        body = (
            b'{"items":['
            + b",".join(entry.body for entry in found)
            + b'],"metadata":'
            + json.dumps(metadata).encode()
            + b"}"
        )
        return Reply(200, body, {"Content-Type": "application/json; charset=utf-8"})

    def _model(self, number: str) -> Reply:
        entry = self._entries.get(int(number)) if number.isdecimal() else None
        if entry is None:
            return Reply.json({"error": f"No model with id {number}"}, 404)
        return Reply(200, entry.body, {"Content-Type": "application/json; charset=utf-8"})

    def _version(self, number: int | None) -> Reply:
        entry = self._entries.get(self._versions.get(number or -1, -1))
        if entry is None:
            return Reply.json({"error": "Model not found"}, 404)
        page = json.loads(entry.body)
        version = next(v for v in page["modelVersions"] if v.get("id") == number)
        about = {key: page.get(key) for key in ("name", "type", "nsfw", "poi")}
        return Reply.json({**version, "modelId": page["id"], "model": about})

    def _by_hashes(self, request: Request) -> Reply:
        hashes = json.loads(request.body)
        if not isinstance(hashes, list) or len(hashes) > 100:
            return Reply.json({"error": "at most 100 hashes"}, 400)
        numbers = [self._hashes[h.upper()] for h in hashes if h.upper() in self._hashes]
        return Reply.json([json.loads(self._version(number).body) for number in numbers])

    def _images(self, request: Request) -> Reply:
        wanted = request.get("modelVersionId")
        entry = self._entries.get(self._versions.get(int(wanted), -1)) if wanted else None
        if entry is None:
            return Reply.json({"items": [], "metadata": {}})
        versions = json.loads(entry.body)["modelVersions"]
        images = next(v.get("images") or [] for v in versions if str(v.get("id")) == wanted)
        if request.get("withMeta") != "true":
            images = [{key: v for key, v in image.items() if key != "meta"} for image in images]
        return Reply.json(
            {"items": images[: min(int(request.get("limit", "50")), 200)], "metadata": {}}
        )

    def _download(self, request: Request, number: str) -> Reply:
        if self.private and not request.token:
            if self.login_page:
                return Reply(307, b"", {"Location": f"{self._host}/login?returnUrl=/"})
            return Reply.json({"error": "Unauthorized"}, 401)
        if not number.isdecimal() or int(number) not in self.files:
            return Reply.json({"error": "File not found"}, 404)
        return Reply(302, b"", {"Location": f"{self.storage.url}/{number}?signature=abc"})


class Storage(LocalServer):
    """Where a hub keeps its weights: another machine, which must never see the hub's token."""

    def __init__(self, files: dict[int, Path | bytes]) -> None:
        super().__init__()
        self.files = files

    def answer(self, request: Request) -> Reply:
        content = self.files.get(int(request.path.strip("/") or -1))
        if content is None:
            return Reply(404, b"<Error>NoSuchKey</Error>", {"Content-Type": "application/xml"})
        data = content if isinstance(content, bytes) else content.read_bytes()
        return ranged(request, data)


def ranged(request: Request, data: bytes, **headers: str) -> Reply:
    """Answer with a file, or the part of it that was asked for."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
        "ETag": f'"{sha256(data).hexdigest()}"',
    } | headers
    asked = request.headers.get("range", "")
    if not asked.startswith("bytes="):
        return Reply(200, data, headers)
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        return Reply(200, data, headers)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
    if start >= len(data):
        return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    part = data[start : end + 1]
    return Reply(206, part, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


def _is_wanted(entry: _Entry, request: Request) -> bool:
    types, base_models = request.query.get("types"), request.query.get("baseModels")
    if types and entry.type not in types:
        return False
    if base_models and entry.base_models.isdisjoint(base_models):
        return False
    return not (entry.nsfw and request.get("nsfw") == "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=10_000)
    parser.add_argument("--base-model", default="emoji64")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with CivitaiServer(pages(options.pages, options.base_model), port=options.port) as hub:
        sys.stdout.write(f"{hub.url}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
