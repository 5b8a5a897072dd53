"""A Hugging Face hub on 127.0.0.1, as far as listing, cards and downloads go, for tests.

    with HuggingFaceServer([repository("maker/glow")]) as hub:
        …  # hub.url

Lists go on by a `Link` header with an opaque cursor, files are named by commits, weights have their
SHA-256 in `blobs` and are given from a storage of its own. `local_server` tells how it fails.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

from tests.servers.civitai import ranged
from tests.servers.local_server import LocalServer, Reply, Request

LARGEST_LIMIT = 1000
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def repository(
    name: str,
    base: str = BASE,
    relation: str = "adapter",
    *,
    card: str = "# A style\n\nDraws everything at night.",
    files: Mapping[str, bytes] | None = None,
    about: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Return a repository: its item in lists, its README and its files."""
    contents = {"pytorch_lora_weights.safetensors": b"weights"} if files is None else dict(files)
    data = {
        "base_model": base,
        "license": "creativeml-openrail-m",
        "instance_prompt": "nightglow",
        "tags": ["lora", "diffusers"],
        "widget": [{"text": "a fox, nightglow", "output": {"url": "images/fox.png"}}],
    } | dict(about or {})
    readme = f"---\nlicense: {data['license']}\nbase_model: {base}\n---\n{card}"
    told = f"{name}{readme}{sorted(contents.items())}".encode(errors="replace")
    commit = hashlib.sha1(told).hexdigest()
    return {
        "id": name,
        "modelId": name,
        "sha": commit,
        "createdAt": "2024-01-01T00:00:00.000Z",
        "lastModified": "2024-02-01T00:00:00.000Z",
        "private": False,
        "gated": False,
        "downloads": 120,
        "likes": 3,
        "tags": [
            "diffusers",
            "lora",
            "text-to-image",
            "night",
            f"base_model:{base}",
            f"base_model:{relation}:{base}",
            f"license:{data['license']}",
            "region:us",
        ],
        "cardData": data,
        "siblings": [{"rfilename": path} for path in ("README.md", *contents)],
        "_readme": readme,
        "_files": contents,
    } | changes


class HuggingFaceServer(LocalServer):
    """A hub with these repositories.

    Args:
        repositories: As `repository` makes them.
        tokens: Those that are accepted; any other one is answered with 401. A gated repository
            gives its files to those with a token only.
    """

    def __init__(
        self, repositories: Iterable[Mapping[str, Any]] = (), *, tokens: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.tokens = set(tokens)
        self.repositories: dict[str, dict[str, Any]] = {}
        self.storage = _Storage()
        for entry in repositories:
            self.publish(entry)

    def __enter__(self) -> Self:
        self.storage.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.storage.__exit__(*error)

    def publish(self, entry: Mapping[str, Any]) -> None:
        """Add a repository, or a commit to it."""
        with self._lock:
            self.repositories[str(entry["id"])] = dict(entry)

    def unpublish(self, name: str) -> None:
        with self._lock:
            del self.repositories[name]

    def answer(self, request: Request) -> Reply:
        if request.token and request.token not in self.tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        parts = request.path.strip("/").split("/")
        match parts:
            case ["api", "models"]:
                return self._list(request)
            case ["api", "models", author, name]:
                return self._info(f"{author}/{name}", request)
            case ["api", "models", author, name, "revision", commit]:
                return self._info(f"{author}/{name}", request, commit)
            case [author, name, "resolve", commit, *path] if path:
                return self._file(f"{author}/{name}", commit, "/".join(path), request)
        return _error(404, "", "Not found")

    def _list(self, request: Request) -> Reply:
        wanted = request.query.get("filter", [])
        found = [
            entry
            for entry in self.repositories.values()
            if all(tag in entry.get("tags", ()) for tag in wanted)
        ]
        if sort := request.get("sort"):
            found.sort(key=lambda entry: str(entry.get(sort)), reverse=True)
        limit = min(int(request.get("limit", "1000")), LARGEST_LIMIT)
        cursor = request.get("cursor")
        start = int(base64.urlsafe_b64decode(cursor)) if cursor else 0
        headers = {}
        if start + limit < len(found):
            query = {name: value for name, value in request.query.items() if name != "cursor"}
            query["cursor"] = [base64.urlsafe_b64encode(str(start + limit).encode()).decode()]
            address = f"{self.url}{request.path}?{urlencode(query, doseq=True)}"
            headers["Link"] = f'<{address}>; rel="next"'
        fields = set(request.query.get("expand", ()))
        items = [_shown(entry, fields) for entry in found[start : start + limit]]
        return Reply.json(items, **headers)

    def _info(self, name: str, request: Request, commit: str = "") -> Reply:
        entry = self.repositories.get(name)
        if entry is None or (commit and entry.get("sha") != commit):
            return _error(401, "RepoNotFound", "Repository not found")
        shown = _shown(entry, set(request.query.get("expand", ())))
        if request.get("blobs") == "true":
            shown["siblings"] = [
                {
                    "rfilename": path,
                    "size": len(data),
                    "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)},
                }
                for path, data in entry["_files"].items()
            ]
        return Reply.json(shown)

    def _file(self, name: str, commit: str, path: str, request: Request) -> Reply:
        entry = self.repositories.get(name)
        if entry is None:
            return _error(401, "RepoNotFound", "Repository not found")
        if entry.get("gated") and not request.token:
            return _error(401, "GatedRepo", f"Access to model {name} is restricted.")
        if entry["sha"] != commit:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        headers = {"X-Repo-Commit": str(entry["sha"])}
        if path == "README.md" and entry.get("_readme") is not None:
            return Reply(200, str(entry["_readme"]).encode(), headers)
        if path not in entry["_files"]:
            return _error(404, "EntryNotFound", "Entry not found")
        data = entry["_files"][path]
        digest = hashlib.sha256(data).hexdigest()
        self.storage.blobs[digest] = data
        return Reply(
            302,
            b"",
            {
                **headers,
                "Location": f"{self.storage.url}/{digest}?Signature=abc",
                "X-Linked-ETag": f'"{digest}"',
                "X-Linked-Size": str(len(data)),
            },
        )


class _Storage(LocalServer):
    """Where weights lie: another machine, which must never see the hub's token."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[str, bytes] = {}

    def answer(self, request: Request) -> Reply:
        data = self.blobs.get(request.path.strip("/"))
        return _error(404, "", "NoSuchKey") if data is None else ranged(request, data)


def _shown(entry: Mapping[str, Any], fields: set[str]) -> dict[str, Any]:
    """Return an item with the fields that were asked for."""
    always = {"id", "modelId", "private"}
    return {
        name: value
        for name, value in entry.items()
        if not name.startswith("_") and (not fields or name in fields or name in always)
    }


def _error(status: int, code: str, message: str) -> Reply:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Reply.json({"error": message}, status, **headers)
