"""Discovery keeps what can be used, says why the rest cannot, and does nothing twice."""

import json
import resource
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.content import ContentConfig
from diffgraph.crawlers.discovery import Discovery, DiscoveryConfig, discover
from diffgraph.crawlers.folder import FolderCrawler
from diffgraph.errors import InputError, ServiceUnavailable, StorageError
from diffgraph.experts.expert import Listing
from diffgraph.experts.library import Library
from diffgraph.families import get_family

LAYER = "unet.mid.to_q"
PARAMETERS: Mapping[str, Tensor] = {f"{LAYER}.weight": torch.ones(6, 4)}


class CountingCrawler(FolderCrawler):
    """Counts what it fetches; fails when told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fetched: list[str] = []
        self.is_down = False

    def fetch(self, listing: Listing, folder: Path) -> Path:
        self.fetched.append(str(listing.ref))
        if self.is_down:
            raise ServiceUnavailable("the hub answers 503")
        return super().fetch(listing, folder)


class Hub:
    """A hub folder that changes as a hub does."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.library = Library(home, bundled=())
        for name in ("models", "files"):
            (folder / name).mkdir(parents=True)
        (folder / "hub.json").write_text('{"name": "hub"}')
        self.crawler = CountingCrawler(folder)

    def publish(self, number: int, *versions: tuple[int, str], **changes: Any) -> None:
        """Write a page with these versions (id, date), and their files."""
        page = {
            "id": number,
            "name": f"expert {number}",
            "description": "<p>It glows.</p>",
            "type": "LORA",
            "modelVersions": [
                {
                    "id": version,
                    "baseModel": "emoji64",
                    "publishedAt": f"{day}T00:00:00Z",
                    "files": [{"downloadUrl": f"files/{version}.safetensors", "sizeKB": 1}],
                }
                for version, day in versions
            ],
        } | changes
        (self.folder / f"models/{number}.json").write_text(json.dumps(page))
        for version, _ in versions:
            if not self.file(version).exists():
                self.write(version)

    def file(self, version: int) -> Path:
        return self.folder / f"files/{version}.safetensors"

    def write(self, version: int, value: float = 0.1, width: int = 4) -> None:
        down = torch.full((1, width), value + version)
        save_file(
            {f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": torch.ones(6, 1)},
            self.file(version),
        )

    def unpublish(self, number: int) -> None:
        (self.folder / f"models/{number}.json").unlink()

    def discover(self, family: str = "emoji64", **config: Any) -> Discovery:
        self.crawler.fetched.clear()
        return discover(
            self.crawler,
            self.library,
            get_family(family),
            parameters=PARAMETERS,
            config=DiscoveryConfig(**config),
        )

    def status(self, ref: str) -> str:
        return self.library.get(ref).status


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "hub", tmp_path / "home")


def refs(experts: tuple[Any, ...]) -> list[str]:
    return [expert.ref for expert in experts]


def test_a_usable_expert_is_kept_with_its_page_and_file(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    report = hub.discover()
    assert refs(report.new) == ["hub:1@11"]
    expert = hub.library.get("hub:1@11")
    assert (expert.kind, expert.format, expert.status) == ("peft", "lora", "ready")
    assert hub.library.path_of(expert.sha256).read_bytes() == hub.file(11).read_bytes()
    assert hub.library.listing("hub:1@11").description == "<p>It glows.</p>"
    assert not list(hub.library.folder.glob(".judging*"))


def test_nothing_new_is_nothing_read(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.publish(2, (21, "2023-05-01"), allowDerivatives=False)
    hub.publish(3, (31, "2023-05-01"), nsfw=True)
    hub.write(41, float("nan"))
    hub.publish(4, (41, "2023-05-01"))
    hub.discover()
    table = (hub.library.folder / "experts.jsonl").read_bytes()
    report = hub.discover()
    assert hub.crawler.fetched == []
    assert len(report.unchanged) == 4
    assert (report.new, report.updated, report.rejected, report.retired) == ((), (), (), ())
    assert (hub.library.folder / "experts.jsonl").read_bytes() == table


def test_a_bad_expert_does_not_end_the_run(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.file(11).write_bytes(hub.file(11).read_bytes()[:-5])
    hub.write(21, float("inf"))
    hub.publish(2, (21, "2023-05-01"))
    hub.write(31, width=5)
    hub.publish(3, (31, "2023-05-01"))
    hub.publish(4, (41, "2023-05-01"))
    hub.file(41).unlink()
    hub.publish(5, (51, "2023-05-01"))
    (hub.folder / "models/0.json").write_text("{")
    report = hub.discover()
    assert refs(report.rejected) == ["hub:1@11", "hub:2@21", "hub:3@31", "hub:4@41"]
    assert all(expert.reason and "\n" not in expert.reason for expert in report.rejected)
    assert [page.where for page in report.broken] == ["models/0.json"]
    assert refs(report.new) == ["hub:5@51"]
    kept = {path.stem for path in (hub.library.folder / "files").iterdir()}
    assert kept == {hub.library.get("hub:5@51").sha256}, "only usable files are kept"
    told = report.model_dump(mode="json")
    assert (told["new"], told["unchanged"], told["ready"]) == (["hub:5@51"], 0, 1)
    assert {"where", "broken", "rejected", "registered_only"}.isdisjoint(told)
    assert [refusal["what"] for refusal in told["refused"]] == [
        "models/0.json",
        *refs(report.rejected),
    ]
    assert all(set(refusal) == {"what", "name", "reason"} for refusal in told["refused"])


def test_what_its_maker_forbids_is_known_but_not_fetched(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"), allowDerivatives=False)
    report = hub.discover()
    assert refs(report.registered_only) == ["hub:1@11"]
    assert "derivatives" in hub.library.get("hub:1@11").reason
    assert hub.crawler.fetched == []


def test_a_changed_page_is_read_again(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    hub.publish(1, (11, "2023-05-01"), description="It glows more.")
    report = hub.discover()
    assert (refs(report.updated), report.new) == (["hub:1@11"], ())
    assert hub.library.listing("hub:1@11").description == "It glows more."


def test_a_permission_that_is_taken_back_holds(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    hub.publish(1, (11, "2023-05-01"), allowDerivatives=False)
    hub.discover()
    assert hub.status("hub:1@11") == "registered_only"


def test_the_newest_usable_version_stands_for_an_expert(hub: Hub) -> None:
    hub.publish(1, (12, "2023-05-01"), (11, "2023-06-01"))
    report = hub.discover()
    assert refs(report.new) == ["hub:1@11"]
    assert refs(report.superseded) == ["hub:1@12"]
    assert "hub:1@11" in hub.library.get("hub:1@12").reason

    hub.write(13, float("nan"))
    hub.publish(1, (13, "2023-07-01"), (12, "2023-05-01"), (11, "2023-06-01"))
    hub.discover()
    assert hub.status("hub:1@13") == "rejected"
    assert hub.status("hub:1@11") == "ready", "a broken new version replaces nothing"

    hub.publish(1, (14, "2023-08-01"), (11, "2023-06-01"))
    report = hub.discover()
    assert refs(report.superseded) == ["hub:1@11"]
    assert set(refs(report.retired)) == {"hub:1@12", "hub:1@13"}

    hub.publish(1, (11, "2023-06-01"))
    hub.discover()
    assert (hub.status("hub:1@14"), hub.status("hub:1@11")) == ("retired", "ready")


def test_versions_of_one_day_go_by_their_number(hub: Hub) -> None:
    hub.publish(1, (9, "2023-05-01"), (11, "2023-05-01"))
    hub.discover()
    assert (hub.status("hub:1@9"), hub.status("hub:1@11")) == ("superseded", "ready")


def test_what_is_gone_is_retired_and_may_come_back(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.publish(2, (21, "2023-05-01"))
    hub.discover()
    hub.unpublish(1)
    assert refs(hub.discover().retired) == ["hub:1@11"]
    assert hub.library.path_of(hub.library.get("hub:1@11").sha256).is_file()
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    assert hub.status("hub:1@11") == "ready"


def test_an_unreadable_page_retires_nobody(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    (hub.folder / "models/1.json").write_text('{"id": 1, ')
    report = hub.discover()
    assert report.retired == ()
    assert hub.status("hub:1@11") == "ready"


def test_another_hubs_experts_are_left_alone(hub: Hub, tmp_path: Path) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    other = Hub(tmp_path / "other", tmp_path / "home")
    (other.folder / "hub.json").write_text('{"name": "otherhub"}')
    other.crawler = CountingCrawler(other.folder)
    other.publish(1, (11, "2024-05-01"))
    other.discover()
    assert refs(other.library.experts("ready")) == ["hub:1@11", "otherhub:1@11"]


def test_a_mended_file_is_found_though_its_page_is_the_same(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.file(11).unlink()
    assert refs(hub.discover().rejected) == ["hub:1@11"]
    report = hub.discover()
    assert (report.rejected, refs(report.unchanged)) == ((), ["hub:1@11"])
    hub.write(11)
    assert refs(hub.discover().updated) == ["hub:1@11"]


def test_a_file_that_is_another_than_its_page_says_is_fetched_once(hub: Hub) -> None:
    def publish(**changes: str) -> None:
        hub.publish(1, (11, "2023-05-01"), **changes)
        page = json.loads((hub.folder / "models/1.json").read_text())
        page["modelVersions"][0]["files"][0]["hashes"] = {"SHA256": "AB" * 32}
        (hub.folder / "models/1.json").write_text(json.dumps(page))

    publish()
    assert refs(hub.discover().rejected) == ["hub:1@11"]
    row = hub.library.get("hub:1@11")
    assert row.sha256 == sha256_of(hub.file(11)), "what came is remembered"
    assert "SHA-256" in row.reason
    assert not list(hub.library.folder.glob("files/*"))
    for _ in range(2):
        report = hub.discover()
        assert (hub.crawler.fetched, refs(report.unchanged)) == ([], ["hub:1@11"])
    publish(description="<p>Now it is the right one.</p>")
    hub.discover()
    assert hub.crawler.fetched == ["hub:1@11"]


def test_weights_of_the_library_cannot_be_written(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    file = hub.library.path_of(hub.library.get("hub:1@11").sha256)
    assert file.stat().st_mode & 0o777 == 0o400


def test_an_expert_that_we_have_is_given_up_when_a_rule_rules_it_out(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"), tags=["celebrity"])
    hub.discover(content=ContentConfig(real_people="take"))
    assert hub.status("hub:1@11") == "ready"
    assert refs(hub.discover(content=ContentConfig(real_people="know")).registered_only)
    assert hub.status("hub:1@11") == "registered_only"
    hub.discover(content=ContentConfig(real_people="take"))
    assert hub.status("hub:1@11") == "ready"


def test_an_expert_that_its_hub_takes_down_is_merged_no_more(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.publish(2, (21, "2023-05-01"))
    hub.discover()
    hub.publish(1, (11, "2023-05-01"), mode="TakenDown")
    hub.discover()
    assert (hub.status("hub:1@11"), hub.status("hub:2@21")) == ("registered_only", "ready")


def test_a_file_lost_from_the_library_is_fetched_again(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    hub.library.path_of(hub.library.get("hub:1@11").sha256).unlink()
    hub.discover()
    assert hub.library.path_of(hub.library.get("hub:1@11").sha256).is_file()


def test_a_hub_that_fails_is_tried_again_and_retires_nobody(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    hub.publish(1, (11, "2023-05-01"), description="new")
    hub.publish(2, (21, "2023-05-01"))
    hub.crawler.is_down = True
    report = hub.discover()
    assert [page.where for page in report.failed] == ["hub:1@11", "hub:2@21"]
    assert report.retired == ()
    assert hub.library.find("hub:2@21") is None
    hub.crawler.is_down = False
    assert refs(hub.discover().new) == ["hub:2@21"]


def test_a_home_that_cannot_be_written_ends_the_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where a folder should be")
    hub = Hub(tmp_path / "hub", tmp_path / "home")
    hub.publish(1, (11, "2023-05-01"))
    with pytest.raises(StorageError, match="cannot write") as failure:
        hub.discover()
    assert "\n" not in str(failure.value)


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(hub: Hub) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.discover()
    before = everything_below(hub.library.folder)
    hub.publish(2, (21, "2023-05-01"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hub.file(21).stat().st_size // 2, hard))
    try:
        with pytest.raises(StorageError, match="cannot write"):
            hub.discover()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert everything_below(hub.library.folder) == before
    assert refs(hub.discover().new) == ["hub:2@21"]


def test_a_run_that_is_stopped_goes_on_where_it_was(hub: Hub) -> None:
    for number in (1, 2, 3):
        hub.publish(number, (number * 10, "2023-05-01"))
    fetch = hub.crawler.fetch

    def stopped(listing: Listing, folder: Path) -> Path:
        if listing.ref.model == "2":
            raise KeyboardInterrupt
        return fetch(listing, folder)

    hub.crawler.fetch = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        hub.discover()
    assert refs(hub.library.experts()) == ["hub:1@10"]
    hub.crawler.fetch = fetch  # type: ignore[method-assign]
    assert refs(hub.discover().new) == ["hub:2@20", "hub:3@30"]
    assert hub.crawler.fetched == ["hub:2@20", "hub:3@30"]


def everything_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_progress_is_told_for_every_page(hub: Hub) -> None:
    for number in (1, 2):
        hub.publish(number, (number * 10, "2023-05-01"))
    (hub.folder / "models/3.json").write_text("")
    told: list[tuple[int, str]] = []
    discover(
        hub.crawler,
        hub.library,
        get_family("emoji64"),
        on_progress=lambda count, name: told.append((count, name)),
        parameters=PARAMETERS,
    )
    assert told == [(1, "expert 1"), (2, "expert 2"), (3, "models/3.json")]


class TestPartOfAHub:
    """What is left out stays as it was: nothing is retired for it, nothing is forgotten."""

    def test_a_limit_takes_the_next_ones_each_time(self, hub: Hub) -> None:
        for number in (1, 2, 3):
            hub.publish(number, (10 * number + 1, "2023-05-01"))
        first = hub.discover(limit=2)
        assert (refs(first.new), first.later) == (["hub:1@11", "hub:2@21"], 1)
        second = hub.discover(limit=2)
        assert (refs(second.new), second.later, second.retired) == (["hub:3@31"], 0, ())
        assert len(second.unchanged) == 2

    def test_since_leaves_out_what_is_older(self, hub: Hub) -> None:
        hub.publish(1, (11, "2023-05-01"))
        hub.discover()
        hub.publish(2, (21, "2023-04-30"))
        hub.publish(3, (31, "2023-06-01"))
        report = hub.discover(since=datetime(2023, 6, 1))
        assert (refs(report.new), report.later, report.retired) == (["hub:3@31"], 1, ())
        assert hub.crawler.fetched == ["hub:3@31"]

    def test_metadata_only_fetches_nothing(self, hub: Hub) -> None:
        hub.publish(1, (11, "2023-05-01"))
        hub.discover()
        hub.publish(2, (21, "2023-05-01"))
        hub.publish(3, (31, "2023-05-01"), nsfw=True)
        report = hub.discover(metadata_only=True)
        assert hub.crawler.fetched == []
        assert (refs(report.listed), refs(report.rejected)) == (["hub:2@21"], ["hub:3@31"])
        assert (report.registered_only, report.retired) == ((), ())
        assert hub.status("hub:2@21") == "registered_only"
        assert "--metadata-only" in hub.library.get("hub:2@21").reason
        assert hub.library.listing("hub:2@21").description == "<p>It glows.</p>"
        assert hub.discover(metadata_only=True).listed == ()
        assert refs(hub.discover().updated) == ["hub:2@21"]
        assert hub.status("hub:2@21") == "ready"


@pytest.mark.parametrize("damage", ["cut", "a flipped bit"])
def test_weights_that_rot_are_set_aside_and_brought_again(hub: Hub, damage: str) -> None:
    hub.publish(1, (11, "2023-05-01"))
    hub.publish(2, (21, "2023-05-01"))
    hub.discover()
    file = hub.library.path_of(hub.library.get("hub:1@11").sha256)
    whole = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(whole[:-9] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    if damage != "cut":  # no size tells it: somebody has to ask for every byte to be read
        assert hub.library.set_damaged_weights_aside() == ()
        assert hub.library.set_damaged_weights_aside(is_thorough=True) == ("hub:1@11",)
    report = hub.discover()
    assert hub.crawler.fetched == ["hub:1@11"]
    assert not report.rejected
    assert file.read_bytes() == whole
    assert file.with_name(f"{file.name}.damaged").is_file()


class TestTwoFamilies:
    """One hub, one home, two bases: neither family loses an expert to the other's discover."""

    @pytest.fixture
    def both(self, hub: Hub) -> Hub:
        hub.publish(1, (11, "2023-05-01"), (12, "2023-06-01"))
        page = hub.folder / "models/1.json"
        facts = json.loads(page.read_text())
        facts["modelVersions"][1]["baseModel"] = "SD 1.5"
        page.write_text(json.dumps(facts))
        hub.discover("emoji64")
        hub.discover("sd15")
        return hub

    def usable(self, hub: Hub) -> dict[str, str]:
        return {expert.ref: expert.family for expert in hub.library.experts("ready")}

    def test_each_has_its_own_version(self, both: Hub) -> None:
        assert self.usable(both) == {"hub:1@11": "emoji64", "hub:1@12": "sd15"}
        both.discover("emoji64")
        both.discover("sd15")
        assert self.usable(both) == {"hub:1@11": "emoji64", "hub:1@12": "sd15"}

    def test_a_page_that_changed_is_the_other_familys_business(self, both: Hub) -> None:
        page = both.folder / "models/1.json"
        page.write_text(page.read_text().replace("It glows", "It shines"))
        both.discover("sd15")
        assert self.usable(both) == {"hub:1@11": "emoji64", "hub:1@12": "sd15"}
        assert refs(both.discover("emoji64").updated) == ["hub:1@11"]
        assert self.usable(both) == {"hub:1@11": "emoji64", "hub:1@12": "sd15"}

    def test_each_retires_its_own(self, both: Hub) -> None:
        both.unpublish(1)
        assert refs(both.discover("sd15").retired) == ["hub:1@12"]
        assert self.usable(both) == {"hub:1@11": "emoji64"}
        assert refs(both.discover("emoji64").retired) == ["hub:1@11"]


class TestTwoFoldersOfOneName:
    def test_neither_retires_the_others(self, hub: Hub, tmp_path: Path) -> None:
        hub.publish(1, (11, "2023-05-01"))
        hub.discover()
        other = Hub(tmp_path / "other", tmp_path / "home")
        other.publish(2, (21, "2023-05-01"))
        with pytest.raises(InputError, match=r"other names itself 'hub', as .*hub does") as told:
            other.discover()
        assert "hub.json" in str(told.value)
        assert hub.status("hub:1@11") == "ready"
        assert hub.library.find("hub:2@21") is None

    @pytest.mark.parametrize("change", ["moved", "renamed"])
    def test_a_name_that_nobody_bears_any_more_is_free(
        self, hub: Hub, tmp_path: Path, change: str
    ) -> None:
        hub.publish(1, (11, "2023-05-01"))
        hub.discover()
        shutil.copytree(hub.folder, tmp_path / "other")
        if change == "moved":
            shutil.rmtree(hub.folder)
        else:
            (hub.folder / "hub.json").write_text('{"name": "another"}')
        moved = FolderCrawler(tmp_path / "other")
        report = discover(moved, hub.library, get_family("emoji64"), parameters=PARAMETERS)
        assert refs(report.unchanged) == ["hub:1@11"]

    def test_a_copy_that_changed_may_take_its_place(self, hub: Hub, tmp_path: Path) -> None:
        hub.publish(1, (11, "2023-05-01"))
        hub.publish(2, (21, "2023-05-01"))
        hub.discover()
        shutil.copytree(hub.folder, tmp_path / "newer")
        (tmp_path / "newer" / "models" / "1.json").unlink()
        newer = FolderCrawler(tmp_path / "newer")
        report = discover(newer, hub.library, get_family("emoji64"), parameters=PARAMETERS)
        assert refs(report.retired) == ["hub:1@11"]

    def test_a_copy_whose_every_page_changed_is_known_by_its_files(
        self, hub: Hub, tmp_path: Path
    ) -> None:
        hub.publish(1, (11, "2023-05-01"))
        page = hub.folder / "models" / "1.json"
        stated = json.loads(page.read_text())
        (file,) = stated["modelVersions"][0]["files"]
        file["hashes"] = {"SHA256": sha256_of(hub.file(11))}
        page.write_text(json.dumps(stated))
        hub.discover()
        shutil.copytree(hub.folder, tmp_path / "newer")
        page = tmp_path / "newer" / "models" / "1.json"
        page.write_text(page.read_text().replace("It glows", "It shines"))
        newer = FolderCrawler(tmp_path / "newer")
        report = discover(newer, hub.library, get_family("emoji64"), parameters=PARAMETERS)
        assert refs(report.updated) == ["hub:1@11"]

    def test_a_damaged_note_is_told_and_made_again(self, hub: Hub, caplog: Any) -> None:
        hub.publish(1, (11, "2023-05-01"))
        hub.discover()
        (hub.library.folder / "hubs.json").write_text("[")
        hub.discover()
        assert any("hubs.json is damaged" in line for line in caplog.messages)
        assert (hub.library.folder / "hubs.json.damaged").is_file()

    def test_the_hub_that_ships_may_be_installed_twice(self, hub: Hub) -> None:
        (hub.folder / "hub.json").write_text('{"name": "emojihub"}')
        FolderCrawler(hub.folder).begin(hub.library)
        shipped = FolderCrawler(get_family("emoji64").hub)
        shipped.begin(hub.library)
