"""A tree of weights files is a hub: known by sidecars, headers and names, and left where it is."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.changes import Discovery
from diffgraph.crawlers.discovery import DiscoveryConfig, discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.crawlers.weights_tree import names
from diffgraph.errors import DamagedFile, MissingInput
from diffgraph.experts.expert import NOT_KNOWN, Listing
from diffgraph.experts.library import Library
from diffgraph.experts.reading import open_delta
from diffgraph.experts.references import References, may_be_cut
from diffgraph.families import get_family
from diffgraph.merging.provenance import licence_duties
from diffgraph.progress import listening
from tests.diffgraph.crawlers.test_image_prompts import png

LAYER = "unet.mid.to_q"
PARAMETERS: Mapping[str, Tensor] = {f"{LAYER}.weight": torch.ones(6, 4)}
KOHYA = {
    "ss_output_name": "night_city",
    "ss_tag_frequency": json.dumps({"10_nightcity": {"neon_sign": 9, "rain": 4, "car": 12}}),
    "ss_dataset_dirs": json.dumps({"10_nightcity": {"n_repeats": 10, "img_count": 12}}),
}
MIXED = ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 2048)  # SDXL's


class Folder:
    """A folder of weights files that changes as people's do, and a library that knows it."""

    def __init__(self, top: Path, home: Path) -> None:
        self.top, self.library = top, Library(home, bundled=())
        top.mkdir(parents=True)

    def write(self, name: str, value: float = 0.1, **metadata: str) -> Path:
        file = self.top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"{LAYER}.lora_A.weight": torch.full((1, 4), value),
            f"{LAYER}.lora_B.weight": torch.ones(6, 1),
        }
        save_file(tensors, file, metadata or None)
        return file

    def beside(self, name: str, said: object) -> Path:
        file = self.top / name
        file.write_text(said if isinstance(said, str) else json.dumps(said))
        return file

    def discover(self, **config: Any) -> Discovery:
        return discover(
            FolderOfFiles(self.top, get_family("emoji64"), self.library),
            self.library,
            get_family("emoji64"),
            parameters=PARAMETERS,
            config=DiscoveryConfig(**config),
        )

    def page(self, name: str) -> Listing:
        found = [one for one in self.library.experts() if one.ref.startswith(f"loras:{name}@")]
        return self.library.listing(found[-1].ref)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "loras", tmp_path / "home")


def models(experts: Iterable[Any]) -> list[str]:
    return [expert.ref.partition(":")[2].partition("@")[0] for expert in experts]


def in_secret(file: Path) -> None:
    """Make a file another one, in a way that only who reads it can tell."""
    before = file.stat()
    file.write_bytes(b"x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def reasons(report: Discovery) -> dict[str, str]:
    return {page.where: page.reason for page in report.broken}


class TestWhatIsKnown:
    def test_a_name_and_training_tags_make_a_thin_page_that_says_so(self, folder: Folder) -> None:
        folder.write("city/night.safetensors", **KOHYA)
        assert models(folder.discover().new) == ["city/night"]
        page = folder.page("city/night")
        assert page.name == "night_city"
        assert page.trigger_words == ("nightcity",)
        assert page.tags == ("car", "neon sign", "rain")  # the most frequent first
        told = "Known by its file name and training tags only: car, neon sign, rain."
        assert page.description == told
        assert page.type == "LORA"

    def test_a_file_that_says_nothing_is_known_by_its_name(self, folder: Folder) -> None:
        folder.write("Ink_Wash.safetensors")
        folder.discover()
        page = folder.page("Ink_Wash")
        assert (page.name, page.tags, page.trigger_words) == ("Ink_Wash", (), ())

    def test_sidecars_come_before_the_header(self, folder: Folder) -> None:
        file = folder.write("a.safetensors", **KOHYA)
        folder.beside("a.metadata.json", {
            "model_name": "Neon Rain", "size": file.stat().st_size, "tags": ["city"],
            "modelDescription": "<p>Wet streets.</p>", "usage_tips": '{"strength": 0.7}',
            "civitai": {
                "trainedWords": ["neonrain"], "images": [{"meta": {"prompt": "a wet street"}}],
                "model": {"name": "Hub's name", "allowNoCredit": False},
                "creator": {"username": "mo"},
            },
        })  # fmt: skip
        folder.beside("a.json", {"activation text": "other", "preferred weight": 0.4})
        folder.discover()
        page = folder.page("a")
        assert (page.name, page.trigger_words, page.tags) == ("Neon Rain", ("neonrain",), ("city",))
        assert page.description == "<p>Wet streets.</p>\nRecommended weight: 0.7."
        assert page.example_prompts == ("a wet street",)
        assert page.licence.credit_required
        assert page.licence.creator == "mo"

    def test_a_persons_own_notes_are_read(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        note = {"activation text": "inky, wash", "preferred weight": 0.8, "notes": "For rivers."}
        folder.beside("a.json", note)
        folder.write("b.safetensors", 0.2)
        folder.beside("b.json", {"preferred weight": 0})  # not set
        folder.beside("b.txt", "Mountains in fog.")
        folder.discover()
        assert folder.page("a").trigger_words == ("inky", "wash")
        assert folder.page("a").description == "For rivers.\nRecommended weight: 0.8."
        assert folder.page("b").description == "Mountains in fog."

    def test_what_stability_matrix_kept_and_a_readme_are_read(self, folder: Folder) -> None:
        file = folder.write("a.safetensors")
        folder.beside("a.cm-info.json", {
            "ModelName": "Ink", "ModelDescription": "<p>Soft ink.</p>", "BaseModel": "SD 1.5",
            "TrainedWords": ["inkwash"], "Tags": ["ink"],
            "Hashes": {"SHA256": sha256_of(file).upper(), "AutoV3": "x"},
        })  # fmt: skip
        folder.write("b.safetensors", 0.2)
        folder.beside("b.md", "# Fog\nMountains.")
        assert not folder.discover().broken
        page = folder.page("a")
        assert (page.name, page.description) == ("Ink", "<p>Soft ink.</p>")
        assert (page.trigger_words, page.tags) == (("inkwash",), ("ink",))
        assert folder.page("b").description == "# Fog\nMountains."

    def test_what_civitai_helper_kept_is_read_and_an_empty_one_says_nothing(
        self, folder: Folder
    ) -> None:
        for name, value in (("a", 0.1), ("b", 0.2)):
            folder.write(f"{name}.safetensors", value)
        folder.beside("a.civitai.info", {
            "id": 5, "modelId": 4, "name": "v2", "trainedWords": ["inkwash"],
            "description": "Soft ink.", "model": {"name": "Ink", "type": "LORA", "poi": False},
        })  # fmt: skip
        folder.beside("b.civitai.info", {"id": "", "modelId": ""})
        report = folder.discover()
        assert (folder.page("a").name, folder.page("a").trigger_words) == ("Ink v2", ("inkwash",))
        assert folder.page("a").description == "Soft ink."
        assert folder.page("b").name == "b"
        assert not report.broken

    def test_previews_are_example_images(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        for name in ("a.preview.png", "a.jpg", "b.png"):
            folder.beside(name, "")
        folder.discover()
        assert [image.url for image in folder.page("a").images] == ["a.preview.png", "a.jpg"]

    def test_the_prompt_in_a_preview_is_an_example_prompt(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        written = "an ink fox <lora:a:0.7>\nNegative prompt: blurry\nSteps: 20"
        png(folder.top / "a.preview.png", written)
        folder.discover()
        assert folder.page("a").example_prompts == ("an ink fox <lora:a:0.7>",)

    def test_a_real_person_in_a_sidecar_is_refused(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        folder.beside("a.civitai.info", {"modelId": 4, "model": {"name": "A", "poi": True}})
        assert models(folder.discover().rejected) == ["a"]


class TestLicence:
    def test_that_is_not_known_lets_its_owner_merge_and_says_so(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        (expert,) = folder.discover().new
        assert expert.licence.name == NOT_KNOWN
        assert expert.status == "ready"
        assert expert.licence.duties == ("licence not known: ask its maker before sharing",)
        assert "its licence is not known" in licence_duties([expert])[0]

    def test_that_forbids_is_obeyed(self, folder: Folder) -> None:
        folder.write("a.safetensors", **{"modelspec.license": "CC BY-NC-ND 4.0"})
        folder.write("b.safetensors", 0.2)
        model = {"name": "B", "allowDerivatives": False}
        folder.beside("b.civitai.info", {"modelId": 4, "model": model})
        assert models(folder.discover().registered_only) == ["a", "b"]


class TestFilesStay:
    def test_where_they_are_and_are_found_by_their_content(self, folder: Folder) -> None:
        file = folder.write("a.safetensors")
        before = file.stat()
        (expert,) = folder.discover().new
        assert expert.sha256 == sha256_of(file)
        assert folder.library.path_of(expert.sha256) == file
        assert not list(folder.library.folder.glob("files/*"))
        assert (file.stat().st_mode, file.stat().st_mtime_ns) == (
            before.st_mode,
            before.st_mtime_ns,
        )
        assert [one.name for one in folder.top.iterdir()] == ["a.safetensors"]

    def test_a_second_look_reads_no_file_again(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        folder.discover()
        in_secret(folder.top / "a.safetensors")
        report = folder.discover()
        assert (models(report.unchanged), report.broken) == (["a"], ())

    def test_one_that_is_cut_while_it_is_used_kills_nobody(self, folder: Folder) -> None:
        """Mapped, its missing pages would end the process with a bus error."""
        file = folder.write("a.safetensors")
        assert may_be_cut(file)
        delta = open_delta(file, PARAMETERS, copied=may_be_cut(file))
        os.truncate(file, 100)
        (update,) = delta.updates.values()
        assert torch.allclose(update.dense(), torch.full((6, 4), 0.1))
        delta.release(f"{LAYER}.weight")
        assert torch.allclose(update.dense(), torch.full((6, 4), 0.1))
        with pytest.raises(DamagedFile):
            open_delta(file, PARAMETERS, copied=True)

    def test_hashing_goes_on_where_it_was_stopped(self, folder: Folder) -> None:
        for number in range(4):
            folder.write(f"{number}.safetensors", 0.1 + number)
        hashed = folder.library.references
        first = hashed.of(folder.top / "0.safetensors")
        again = References(hashed.path)
        in_secret(folder.top / "0.safetensors")
        assert again.of(folder.top / "0.safetensors") == first
        with hashed.path.open("ab") as table:
            table.write(b'{"path":"torn')
        assert References(hashed.path).of(folder.top / "1.safetensors").size_bytes
        assert References(hashed.path).known(folder.top / "0.safetensors") == first

    def test_pages_alone_are_known_before_a_file_is_hashed(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        report = folder.discover(metadata_only=True)
        assert models(report.listed) == ["a"]
        assert not folder.library.references.path.exists()
        assert folder.library.experts()[0].status == "registered_only"
        folder.discover()
        assert folder.library.experts()[0].status == "ready"


class TestChanges:
    def test_a_renamed_file_stays_the_same_expert(self, folder: Folder) -> None:
        file = folder.write("a.safetensors")
        (before,) = folder.discover().new
        (folder.top / "deep").mkdir()
        file.rename(folder.top / "deep/b.safetensors")
        report = folder.discover()
        assert [expert.ref for expert in report.updated] == [before.ref]
        assert not report.retired
        assert folder.library.path_of(before.sha256) == folder.top / "deep/b.safetensors"

    def test_a_replaced_file_is_a_new_version(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        (before,) = folder.discover().new
        folder.write("a.safetensors", 0.7)
        report = folder.discover()
        (after,) = report.new
        assert after.ref.partition("@")[0] == before.ref.partition("@")[0]
        assert after.sha256 != before.sha256
        assert folder.library.get(before.ref).status == "retired"
        with pytest.raises(MissingInput, match=r"a\.safetensors, where it was"):
            folder.library.path_of(before.sha256)

    def test_a_deleted_file_is_retired(self, folder: Folder) -> None:
        file = folder.write("a.safetensors")
        folder.write("b.safetensors", 0.2)
        folder.discover()
        file.unlink()
        assert models(folder.discover().retired) == ["a"]

    def test_a_sidecar_that_changes_changes_the_page(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        (before,) = folder.discover().new
        folder.beside("a.txt", "Rivers.")
        (after,) = folder.discover().updated
        assert after.ref == before.ref
        assert folder.page("a").description == "Rivers."

    def test_a_disk_that_is_missing_retires_nobody(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        folder.discover()
        shutil.rmtree(folder.top)
        folder.top.mkdir()
        report = folder.discover()
        assert not report.retired
        assert "is a disk missing?" in reasons(report)[str(folder.top)]

    def test_a_link_to_a_missing_disk_retires_nobody(self, folder: Folder, tmp_path: Path) -> None:
        folder.write("a.safetensors")
        folder.write("x/b.safetensors", 0.2)
        (folder.top / "x").rename(tmp_path / "disk")
        (folder.top / "nas").symlink_to(tmp_path / "disk", target_is_directory=True)
        assert len(folder.discover().new) == 2
        (tmp_path / "disk").rename(tmp_path / "unmounted")
        report = folder.discover()
        assert not report.retired
        assert "leads nowhere" in reasons(report)[str(folder.top / "nas")]
        (folder.top / "nas").unlink()
        assert models(folder.discover().retired) == ["nas/b"]

    def test_a_missing_disk_keeps_its_name_from_other_folders(
        self, folder: Folder, tmp_path: Path
    ) -> None:
        for number in range(3):
            folder.write(f"{number}.safetensors", 0.1 * (1 + number))
        folder.discover()
        other = Folder(tmp_path / "other/loras", tmp_path / "home")
        shutil.copy(folder.top / "0.safetensors", other.top)
        other.write("b.safetensors", 0.7)
        folder.top.rename(tmp_path / "unmounted")
        assert all(one.ref.startswith("loras_2:") for one in other.discover().new)
        (tmp_path / "unmounted").rename(folder.top)
        assert len(folder.discover().unchanged) == 3

    @pytest.mark.parametrize("moved", ["renamed", "above/loras"])
    def test_a_folder_that_is_renamed_or_moved_keeps_its_experts(
        self, folder: Folder, tmp_path: Path, moved: str
    ) -> None:
        folder.write("a.safetensors")
        folder.write("deep/b.safetensors", 0.2)
        before = folder.discover().new
        (tmp_path / moved).parent.mkdir(exist_ok=True)
        folder.top = folder.top.rename(tmp_path / moved)
        report = folder.discover()
        assert not report.new
        assert not report.retired
        assert {one.ref for one in folder.library.experts("ready")} == {one.ref for one in before}
        assert all(folder.library.path_of(one.sha256).is_relative_to(folder.top) for one in before)

    def test_a_file_that_is_renamed_while_its_place_is_taken_by_another(
        self, folder: Folder
    ) -> None:
        """Renamed and replaced at once: the old one keeps its reference, the new one is new."""
        file = folder.write("a.safetensors")
        (before,) = folder.discover().new
        file.rename(folder.top / "b.safetensors")
        folder.write("a.safetensors", 0.7)
        report = folder.discover()
        ready = {expert.ref: expert for expert in folder.library.experts("ready")}
        assert len(ready) == 2
        assert folder.library.path_of(before.sha256) == folder.top / "b.safetensors"
        assert before.ref in ready
        assert not report.retired

    def test_two_files_that_swap_their_names_stay_who_they_are(self, folder: Folder) -> None:
        one, two = folder.write("a.safetensors"), folder.write("b.safetensors", 0.2)
        before = {expert.sha256: expert.ref for expert in folder.discover().new}
        one.rename(folder.top / "c.safetensors")
        two.rename(one)
        (folder.top / "c.safetensors").rename(two)
        assert not folder.discover().retired
        assert {one.sha256: one.ref for one in folder.library.experts("ready")} == before

    def test_two_folders_of_one_name_keep_theirs_apart(
        self, folder: Folder, tmp_path: Path
    ) -> None:
        folder.write("a.safetensors")
        folder.discover()
        other = Folder.__new__(Folder)
        other.top, other.library = tmp_path / "other/loras", folder.library
        other.write("b.safetensors", 0.3)
        (expert,) = other.discover().new
        assert expert.ref.startswith("loras_2:b@")
        assert not folder.discover().retired
        assert not other.discover().retired


class TestProgress:
    def test_tells_a_total_and_says_something_before_it_looks(self, folder: Folder) -> None:
        for number in range(3):
            folder.write(f"{number % 2}/{number}.safetensors", 0.1 * (1 + number))
        heard: list[tuple[str, int, int | None]] = []
        with listening(lambda stage, done, total, _: heard.append((stage, done, total))):
            crawler = FolderOfFiles(folder.top, get_family("emoji64"), folder.library)
            first = next(iter(crawler.listings()))
        assert isinstance(first, Listing)
        assert heard[0] == ("look through", 0, None)
        assert heard[-1] == ("look through", 3, 3)
        assert crawler.total == 3

    def test_counting_touches_no_file(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        (folder.top / "self.safetensors").symlink_to("self.safetensors")
        (folder.top / ".hidden").mkdir()
        shutil.copy(folder.top / "a.safetensors", folder.top / ".hidden")
        found = [[file.name for file in files] for files in names(folder.top)]
        assert [sorted(files) for files in found] == [["a.safetensors", "self.safetensors"]]


class TestHostile:
    """One clear line each; the rest goes on."""

    @pytest.mark.parametrize(
        ("sidecar", "said", "reason"),
        [
            ("a.metadata.json", "{", "is not JSON"),
            ("a.json", "[1, 2]", "no object"),
            ("a.civitai.info", "[" * 100_000, "is not JSON"),
            ("a.metadata.json", "x" * (9 << 20), "bytes, expected"),
            ("a.metadata.json", {"size": 3}, "speaks of a file of 3 bytes"),
            ("a.metadata.json", {"sha256": "0" * 64}, "another file, by its hash"),
            ("a.cm-info.json", {"Hashes": {"SHA256": "0" * 64}}, "another file, by its hash"),
        ],
    )
    def test_a_sidecar_that_cannot_be_used_costs_itself(
        self, folder: Folder, sidecar: str, said: object, reason: str
    ) -> None:
        folder.write("a.safetensors")
        if isinstance(said, dict):
            said["model_name"] = said["ModelName"] = "Lie"
        folder.beside(sidecar, said)
        folder.discover()
        report = folder.discover()
        assert reason in reasons(report)[sidecar]
        assert models(report.unchanged) == ["a"]
        assert folder.page("a").name == "a"
        assert folder.library.experts("ready")

    @pytest.mark.parametrize("said", [
        {"model_name": 3, "tags": {"a": 1}, "civitai": [1], "usage_tips": "{", "notes": None},
        {"civitai": {"model": 7, "modelId": {"a": 1}, "trainedWords": "x", "images": [None]}},
        {"civitai": {"modelId": True, "model": {"name": ["x"]}}, "size": -1, "sha256": 4},
        {"preferred weight": "a lot", "activation text": ["x"], "preview_nsfw_level": "R"},
        {"Hashes": 3, "TrainedWords": "x", "ModelName": [1], "Tags": {"a": 1}, "Nsfw": 2},
        {"preferred weight": True, "usage_tips": '{"strength": 1e400}'},
    ])  # fmt: skip
    @pytest.mark.parametrize(
        "name", ["a.metadata.json", "a.civitai.info", "a.cm-info.json", "a.json"]
    )
    def test_fields_of_another_kind_say_nothing(
        self, folder: Folder, name: str, said: object
    ) -> None:
        folder.write("a.safetensors")
        folder.beside(name, said)
        assert models(folder.discover().new) == ["a"]
        assert folder.page("a").name.startswith(("a", "unnamed"))

    @pytest.mark.parametrize("said", ["{", "[1]", '{"a": 3}', '{"f": {"tag": "many"}}', "null"])
    def test_a_header_whose_fields_are_broken_is_read_without_them(
        self, folder: Folder, said: str
    ) -> None:
        folder.write("a.safetensors", ss_tag_frequency=said, ss_dataset_dirs=said)
        assert models(folder.discover().new) == ["a"]
        assert folder.page("a").tags == ()

    def test_a_file_of_another_base_is_told_by_its_shapes(self, folder: Folder) -> None:
        """Whatever its sidecar says."""
        module, width = MIXED
        save_file(
            {
                f"{module}.lora_down.weight": torch.ones(2, width),
                f"{module}.lora_up.weight": torch.ones(8, 2),
            },
            folder.top / "a.safetensors",
        )
        folder.beside("a.metadata.json", {"base_model": "SD 1.5"})
        folder.write("b.safetensors")
        report = folder.discover()
        told = "says that it is for SD 1.x, its shapes are those of SDXL: they are believed"
        assert reasons(report)["a.metadata.json"] == told
        assert [expert.reason for expert in report.rejected] == [
            "made for 'SDXL', not for 'emoji64'"
        ]
        assert models(report.new) == ["b"]

    def test_a_base_that_nobody_knows_is_refused(self, folder: Folder) -> None:
        save_file({"blob.lora_A.weight": torch.ones(2, 3), "blob.lora_B.weight": torch.ones(3, 2)},
                  folder.top / "a.safetensors")  # fmt: skip
        (expert,) = folder.discover().rejected
        assert "keys fit the base model" in expert.reason

    def test_files_that_are_none(self, folder: Folder) -> None:
        folder.write("good.safetensors")
        (folder.top / "cut.safetensors").write_bytes(b"\x08\x00")
        (folder.top / "empty.safetensors").touch()
        os.mkfifo(folder.top / "pipe.safetensors")
        (folder.top / "gone.safetensors").symlink_to("nowhere")
        (folder.top / "self.safetensors").symlink_to("self.safetensors")
        for name in ("old.ckpt", "older.pt", "oldest.ckpt", "small.gguf"):
            (folder.top / name).touch()
        report = folder.discover()
        assert models(report.new) == ["good"]
        told = reasons(report)
        assert [page.reason for page in report.broken if page.where == "loras"] == [
            "not read, could run code: 2 .ckpt, 1 .pt",
            "not read, of another format: 1 .gguf",
        ]
        assert {"cut.safetensors", "empty.safetensors", "pipe.safetensors", "gone.safetensors",
                "self.safetensors"} <= told.keys()  # fmt: skip

    def test_links_in_a_circle_end(self, folder: Folder, tmp_path: Path) -> None:
        folder.write("a.safetensors")
        (folder.top / "round").symlink_to(folder.top, target_is_directory=True)
        disk = tmp_path / "disk"
        disk.mkdir()
        shutil.copy(folder.write("x.safetensors", 0.3), disk / "b.safetensors")
        (folder.top / "x.safetensors").unlink()
        (folder.top / "disk").symlink_to(disk, target_is_directory=True)
        assert models(folder.discover().new) == ["a", "disk/b"]

    def test_a_sidecar_that_leads_out_of_its_folder_is_not_read(
        self, folder: Folder, tmp_path: Path
    ) -> None:
        folder.write("a.safetensors")
        (tmp_path / "key").write_text("a secret")
        (folder.top / "a.txt").symlink_to(tmp_path / "key")
        assert "lies outside" in reasons(folder.discover())["a.txt"]
        assert "secret" not in folder.page("a").description

    def test_one_file_under_two_names_is_one_expert(self, folder: Folder) -> None:
        shutil.copy(folder.write("a.safetensors"), folder.top / "b.safetensors")
        report = folder.discover()
        assert models(report.new) == ["a"]
        assert reasons(report)["b.safetensors"] == "is the same file as a.safetensors"

    def test_what_lies_beside_a_copy_is_told_as_not_read(self, folder: Folder) -> None:
        shutil.copy(folder.write("a.safetensors"), folder.top / "b.safetensors")
        (folder.top / "b.json").write_text('{"activation text": "ink"}')
        why = "is the same file as a.safetensors; not read beside it: b.json"
        assert reasons(folder.discover())["b.safetensors"] == why

    def test_two_files_of_one_name_are_two_experts(self, folder: Folder) -> None:
        folder.write("x/ink.safetensors", 0.1)
        folder.write("y/ink.safetensors", 0.2)
        folder.write("a b.safetensors", 0.3)
        folder.write("a_b.safetensors", 0.4)
        report = folder.discover()
        assert len(report.new) == len({*models(report.new)}) == 4
        assert not report.superseded
        assert not folder.discover().new

    def test_a_name_that_is_no_text(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        shutil.copy(folder.top / "a.safetensors", os.fsencode(folder.top) + b"/b\xff.safetensors")
        report = folder.discover()
        assert models(report.new) == ["a"]
        assert "its name is not UTF-8" in reasons(report).values()

    def test_a_folder_whose_name_is_no_text(self, tmp_path: Path) -> None:
        top = Path(os.fsdecode(os.fsencode(tmp_path) + b"/l\xff"))
        top.mkdir()
        (top / "a.safetensors").touch()
        with pytest.raises(MissingInput, match="is not UTF-8: rename it"):
            FolderOfFiles(top, get_family("emoji64"), Library(tmp_path / "home", bundled=()))

    def test_a_folder_that_vanishes_while_it_is_read_retires_nobody(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        folder.write("deep/b.safetensors", 0.2)
        folder.discover()
        crawler = FolderOfFiles(folder.top, get_family("emoji64"), folder.library)
        found = []
        for entry in crawler.listings():
            found.append(entry)
            shutil.rmtree(folder.top / "deep", ignore_errors=True)
        assert len(found) == 2
        assert not crawler.is_whole

    def test_a_file_that_goes_before_it_is_hashed_costs_itself(self, folder: Folder) -> None:
        folder.write("a.safetensors")
        folder.write("b.safetensors", 0.2)

        class Losing(FolderOfFiles):
            def keep(self) -> None:
                (folder.top / "a.safetensors").unlink(missing_ok=True)
                super().keep()

        emoji64 = get_family("emoji64")
        report = discover(Losing(folder.top, emoji64, folder.library), folder.library, emoji64,
                          parameters=PARAMETERS)  # fmt: skip
        assert models(report.new) == ["b"]
        assert [expert.reason for expert in report.rejected] == ["'a.safetensors' is missing"]

    def test_a_folder_without_a_weights_file_is_none(self, folder: Folder) -> None:
        with pytest.raises(MissingInput, match=r"no \.safetensors file lies below it"):
            folder.discover()
        assert not folder.library.folder.exists()
