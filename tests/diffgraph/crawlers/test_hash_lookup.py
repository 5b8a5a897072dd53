"""A hub is asked for files by their hashes: only when it is to be, and judged as any page."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers import hash_lookup
from diffgraph.crawlers.changes import Discovery
from diffgraph.crawlers.civitai_client import CivitaiClient
from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.crawlers.hash_lookup import HashLookup
from diffgraph.crawlers.web import WebConfig
from diffgraph.errors import InputError
from diffgraph.experts.expert import NOT_KNOWN, Listing
from diffgraph.experts.library import Library
from diffgraph.session.hubs import hub_of
from tests.diffgraph.crawlers.test_files_in_place import PARAMETERS, SD15, write
from tests.servers.civitai import CivitaiServer
from tests.servers.civitai_pages import page

QUICK = WebConfig(tries=1, first_wait=0.0)


class Owner:
    """Somebody with a folder and a library, and a hub that may know some of the files."""

    def __init__(self, top: Path, home: Path, hub: CivitaiServer) -> None:
        self.top, self.home, self.hub = top, home, hub

    @property
    def library(self) -> Library:
        return Library(self.home, bundled=())

    def file(self, name: str, value: float = 0.1, **metadata: str) -> str:
        return sha256_of(write(self.top / f"{name}.safetensors", value, **metadata))

    def publish(self, number: int, sha256: str, **changes: Any) -> None:
        """Put a file on the hub."""
        version = {"baseModel": "SD 1.5", **changes.pop("version", {})}
        hashes = {"hashes": {"SHA256": sha256.upper()}}
        self.hub.publish(page(number, type="LORA", file=hashes, version=version, **changes))

    def discover(self, online: bool = True) -> Discovery:
        library = self.library
        if not online:
            return self._discover(library, None)
        with HashLookup.opened(CivitaiClient(self.hub.url, config=QUICK)) as lookup:
            return self._discover(library, lookup)

    def _discover(self, library: Library, lookup: HashLookup | None) -> Discovery:
        crawler = FolderOfFiles(self.top, SD15, library, lookup)
        return discover(crawler, library, SD15, parameters=PARAMETERS)

    def page(self, name: str) -> Listing:
        (ref,) = (one.ref for one in self.library.experts() if f":{name}@" in one.ref)
        return self.library.listing(ref)

    @property
    def asked(self) -> list[str]:
        """The hashes that the hub was asked for, one by one or together."""
        sent: list[str] = []
        for request in self.hub.asked("by-hash"):
            last = request.path.rpartition("/")[2]
            sent += json.loads(request.body) if request.method == "POST" else [last]
        return sent


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with CivitaiServer() as hub:
        yield Owner(tmp_path / "loras", tmp_path / "home", hub)


def test_a_file_that_the_hub_knows_gets_its_page(owner: Owner) -> None:
    sha256, unknown = owner.file("a"), owner.file("b", 0.2)
    owner.publish(1, sha256, name="Ink", description="<p>Soft ink.</p>", tags=["ink"],
                  allowNoCredit=False, creator={"username": "mo"},
                  version={"trainedWords": ["inkwash"], "name": "v2"})  # fmt: skip
    assert len(owner.discover().new) == 2
    known = owner.page("a")
    assert (known.name, known.description, known.tags) == ("Ink v2", "<p>Soft ink.</p>", ("ink",))
    assert known.trigger_words == ("inkwash",)
    assert known.licence.credit_required
    assert known.licence.creator == "mo"
    assert known.example_prompts
    assert owner.page("b").licence.name == NOT_KNOWN
    assert sorted(owner.asked) == sorted([sha256, unknown])


def test_nothing_is_sent_unless_it_is_asked_for(owner: Owner) -> None:
    owner.publish(1, owner.file("a"))
    owner.discover(online=False)
    assert not owner.hub.requests
    assert not owner.library.references.path.exists()


def test_only_hashes_and_ids_of_pages_are_sent(owner: Owner) -> None:
    sha256 = owner.file("a_secret_name", ss_output_name="a_secret_title")
    owner.publish(1, sha256)
    owner.discover()
    hashes, pages = owner.hub.requests
    assert json.loads(hashes.body) == [sha256]
    assert (pages.path, pages.get("ids")) == ("/api/v1/models", "1")
    for request in owner.hub.requests:
        assert "secret" not in f"{request.path}{request.query}{request.headers}{request.body!r}"


def test_answers_are_kept_unknown_ones_too_and_used_offline(owner: Owner) -> None:
    owner.publish(1, owner.file("a"), name="Ink")
    owner.file("b", 0.2)
    owner.discover()
    asked = len(owner.hub.requests)
    for online in (True, False):
        assert len(owner.discover(online).unchanged) == 2
    assert len(owner.hub.requests) == asked
    assert owner.page("a").name.startswith("Ink")


def test_old_answers_are_asked_for_again(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = owner.file("a")
    owner.discover()
    owner.publish(1, sha256, name="Ink")
    owner.discover()
    assert owner.page("a").name == "a"
    monkeypatch.setattr(hash_lookup, "KEPT_FOR", timedelta(0))
    owner.discover()
    assert owner.page("a").name.startswith("Ink")


def test_files_whose_page_and_licence_are_known_are_not_asked_for(owner: Owner) -> None:
    owner.file("a")
    known = {"modelId": 4, "description": "Ink.", "model": {"name": "A", "allowDerivatives": True}}
    (owner.top / "a.civitai.info").write_text(json.dumps(known))
    write(owner.top / "b.safetensors", width=2048)  # SDXL's
    owner.discover()
    assert not owner.hub.requests


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allowDerivatives": False}, "forbids derivatives"),
        ({"nsfw": True}, "not safe for work"),
        ({"poi": True}, "a real person"),
        ({"minor": True}, "a minor"),
    ],
)
def test_what_the_hub_says_is_judged_as_any_page(
    owner: Owner, changes: dict[str, Any], reason: str
) -> None:
    owner.publish(1, owner.file("a"), **changes)
    owner.file("b", 0.2)
    found = owner.discover()
    (refused,) = (*found.rejected, *found.registered_only)
    assert reason in refused.reason
    assert [one.ref.partition("@")[0] for one in found.new] == ["loras:b"]


def test_a_page_that_lies_about_the_base_loses_against_the_shapes(owner: Owner) -> None:
    owner.publish(1, owner.file("a"), version={"baseModel": "SDXL 1.0"})
    (expert,) = owner.discover().new
    assert owner.page("a").base_model == "SD 1.5"
    assert expert.status == "ready"


def test_a_hub_without_batches_is_asked_file_by_file(owner: Owner) -> None:
    owner.publish(1, owner.file("a"), name="Ink")
    owner.file("b", 0.2)
    owner.hub.fail(405, path="/by-hash")
    owner.discover()
    assert owner.page("a").name.startswith("Ink")
    assert owner.page("b").licence.name == NOT_KNOWN


@pytest.mark.parametrize("trouble", ["fail", "garble", "cut"])
def test_a_hub_that_fails_is_one_line_and_the_files_are_known_without_it(
    owner: Owner, trouble: str
) -> None:
    sha256 = owner.file("a")
    owner.publish(1, sha256, name="Ink")
    if trouble == "fail":
        owner.hub.fail(503, path="by-hash", times=9)
    else:
        getattr(owner.hub, trouble)(path="by-hash", times=9)
    found = owner.discover()
    assert [one.name for one in found.new] == ["a"]
    (told,) = (page for page in found.broken if page.where == "--online")
    assert "the other files are known without it" in told.reason
    lines = owner.library.references.path.read_text().splitlines()
    assert len(lines) == 1  # hashed, and kept for the next try


@pytest.mark.parametrize(
    "said",
    [
        {"modelId": [1], "files": 3, "model": "x"},
        {"modelId": True, "model": {"name": ["x"]}, "trainedWords": {"a": 1}},
        {"modelId": 10**30, "images": "x", "description": 5},
        [1, "x", None],
    ],
)
def test_answers_of_another_kind_say_nothing(owner: Owner, said: Any) -> None:
    sha256 = owner.file("a")
    if isinstance(said, dict) and "files" not in said:
        said["files"] = [{"hashes": {"SHA256": sha256}}]
    body = json.dumps([said] if isinstance(said, dict) else said)

    def answer(_: Any) -> Any:
        from tests.servers.local_server import Reply

        return Reply(200, body.encode(), {"Content-Type": "application/json"})

    owner.hub.disturb(answer, path="by-hash", times=9)
    assert len(owner.discover().new) == 1
    assert owner.page("a").name in {"a", "unnamed 1"}


def test_a_run_that_was_stopped_goes_on_with_the_rest(owner: Owner) -> None:
    for number in range(130):  # two requests
        owner.file(str(number), 0.001 * (1 + number))
    library = owner.library
    with HashLookup.opened(CivitaiClient(owner.hub.url, config=QUICK)) as lookup:
        listings = FolderOfFiles(owner.top, SD15, library, lookup).listings()
        assert isinstance(next(listings), Listing)
        listings.close()
    assert len(owner.asked) == 100
    owner.discover()
    assert len(owner.asked) == len(set(owner.asked)) == 130
    assert len(library.references.path.read_text().splitlines()) == 130


def test_it_is_for_folders_only() -> None:
    with pytest.raises(InputError, match="--online is for folders"):
        hub_of("civitai", None, None, "sd15", online=True)
