"""A file whose header tells the family is not read before its first use; then it is hashed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffgraph.artifacts import sha256_of
from diffgraph.crawlers.admission import read_in_place
from diffgraph.crawlers.changes import Discovery
from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.errors import DamagedFile, MissingInput, PlanError
from diffgraph.experts.hashing import hash_files
from diffgraph.experts.library import Library
from diffgraph.experts.references import Reference, References
from diffgraph.families import get_family
from diffgraph.merging.plan import MergePlan, PlannedExpert
from diffgraph.merging.provenance import with_hashes
from diffgraph.session.known_experts import KnownExperts

SD15 = get_family("sd15")
MODULE = "down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
PARAMETERS: Mapping[str, Tensor] = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": torch.zeros(640, 768)
}


def write(file: Path, value: float = 0.1, width: int = 768, **metadata: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"lora_unet_{MODULE}.lora_down.weight": torch.full((1, width), value),
        f"lora_unet_{MODULE}.lora_up.weight": torch.ones(640, 1),
    }
    save_file(tensors, file, metadata or None)
    return file


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def library(home: Path) -> Library:
    return Library(home, bundled=())


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "loras"


def look(top: Path, library: Library) -> Discovery:
    return discover(FolderOfFiles(top, SD15, library), library, SD15, parameters=PARAMETERS)


def planned(ref: str, sha256: str = "") -> MergePlan:
    expert = PlannedExpert(ref=ref, kind="peft", coefficient=0.5, sha256=sha256)
    return MergePlan(family="sd15", experts=(expert,))


class TestDiscover:
    def test_hashes_no_file_whose_header_tells_the_family(self, top, library) -> None:
        file = write(top / "a.safetensors")
        (expert,) = look(top, library).new
        assert (expert.status, expert.sha256, expert.place) == ("ready", "", str(file))
        assert expert.size_bytes == file.stat().st_size
        assert not library.references.path.exists()
        assert len(look(top, library).unchanged) == 1

    @pytest.mark.parametrize("metadata", [
        {"ss_base_model_version": "sdxl_base_v1-0"},
        {"modelspec.prediction_type": "v"},
    ])  # fmt: skip
    def test_reads_whole_what_its_header_says_is_for_another_base(
        self, top, library, metadata
    ) -> None:
        write(top / "a.safetensors", **metadata)
        (expert,) = look(top, library).rejected
        assert "made for" in expert.reason

    def test_reads_whole_what_may_be_quantised(self, top, library) -> None:
        file = write(top / "a.safetensors")
        tensors = {name: value.to(torch.int8) for name, value in load_file(file).items()}
        save_file(tensors, file)
        (expert,) = look(top, library).rejected
        assert "integers" in expert.reason

    def test_keeps_the_hash_of_a_file_that_is_moved_until_it_is_used(
        self, top, home, library
    ) -> None:
        file = write(top / "a.safetensors")
        (expert,) = look(top, library).new
        sha256 = library.get_hashed(expert.ref).sha256
        moved = top / "deep/b.safetensors"
        moved.parent.mkdir()
        file.rename(moved)
        (after,) = look(top, library).updated
        assert (after.ref, after.sha256, after.place) == (expert.ref, sha256, str(moved))
        assert KnownExperts(home, SD15).get(expert.ref).sha256 == sha256
        assert library.path_of(sha256) == moved


class TestFirstUse:
    def test_hashes_the_file_once_and_keeps_it(self, top, home, library) -> None:
        file = write(top / "a.safetensors")
        (expert,) = look(top, library).new
        plan = with_hashes(planned(expert.ref), KnownExperts(home, SD15))
        assert plan.experts[0].sha256 == sha256_of(file)
        assert library.get(expert.ref).sha256 == sha256_of(file)
        assert library.path_of(sha256_of(file)) == file
        assert with_hashes(plan, KnownExperts(home, SD15)) is plan
        assert len(library.references.path.read_text().splitlines()) == 1

    def test_refuses_a_file_that_was_replaced_since_discover(self, top, home, library) -> None:
        write(top / "a.safetensors")
        (expert,) = look(top, library).new
        write(top / "a.safetensors", 0.7)
        with pytest.raises(PlanError, match="is another file since it was discovered"):
            with_hashes(planned(expert.ref), KnownExperts(home, SD15))
        assert library.get(expert.ref).sha256 == ""

    def test_refuses_a_page_that_speaks_of_another_file_until_it_is_read_again(
        self, top, home, library
    ) -> None:
        file = write(top / "a.safetensors")
        said = json.dumps({"sha256": "0" * 64, "model_name": "Lie"})
        file.with_suffix(".metadata.json").write_text(said)
        (expert,) = look(top, library).new
        with pytest.raises(PlanError, match="speaks of another file, by its hash: discover it"):
            with_hashes(planned(expert.ref), KnownExperts(home, SD15))
        (after,) = look(top, library).updated
        assert (after.ref, after.name) == (expert.ref, "a")
        with_hashes(planned(expert.ref), KnownExperts(home, SD15))

    def test_says_that_a_file_has_gone(self, top, home, library) -> None:
        write(top / "a.safetensors").rename(top / "b.txt")
        write(top / "a.safetensors")
        (expert,) = look(top, library).new
        (top / "a.safetensors").unlink()
        with pytest.raises(PlanError, match=r"'a\.safetensors' is missing"):
            with_hashes(planned(expert.ref), KnownExperts(home, SD15))


class TestReadingInFull:
    def test_makes_the_row_whole(self, top, library) -> None:
        write(top / "a.safetensors")
        (expert,) = look(top, library).new
        row = read_in_place(expert, library, PARAMETERS, SD15)
        assert (row.status, row.format) == ("ready", "lora")
        assert row.coverage is not None
        assert row.sha256 == sha256_of(Path(row.place))
        assert library.get(expert.ref) == row

    def test_refuses_what_only_the_numbers_tell(self, top, library) -> None:
        write(top / "a.safetensors", float("nan"))
        (expert,) = look(top, library).new
        row = read_in_place(expert, library, PARAMETERS, SD15)
        assert (row.status, library.get(expert.ref).status) == ("rejected", "rejected")
        assert "NaN" in row.reason
        assert len(look(top, library).unchanged) == 1  # it stays refused


class TestHashing:
    def files(self, folder: Path, count: int) -> Iterator[Path]:
        for number in range(count):
            file = folder / f"{number}.safetensors"
            file.write_bytes(bytes([number % 256]) * (number + 1))
            yield file

    def test_by_threads_gives_what_one_gives_in_the_same_order(self, tmp_path) -> None:
        files, counted = list(self.files(tmp_path, 30)), []
        references = References(tmp_path / "home/references.jsonl")
        found = dict(hash_files(files, references, counted.append))
        assert list(found) == files
        assert [one.sha256 for one in found.values()] == [sha256_of(file) for file in files]
        assert sum(counted) == sum(file.stat().st_size for file in files)

    def test_goes_on_where_it_was_stopped(self, tmp_path) -> None:
        files = list(self.files(tmp_path, 20))
        references = References(tmp_path / "home/references.jsonl")
        hashing = hash_files(files, references)
        assert isinstance(next(hashing)[1], Reference)
        hashing.close()
        again = References(references.path)
        known = {file for file in files if again.known(file)}
        assert files[0] in known
        list(hash_files(files, again))
        lines = references.path.read_text().splitlines()
        assert len(lines) == len(files)  # none twice

    def test_a_file_that_cannot_be_read_costs_itself(self, tmp_path) -> None:
        first, second = self.files(tmp_path, 2)
        first.unlink()
        found = dict(hash_files([first, second], References(tmp_path / "home/references.jsonl")))
        assert isinstance(found[first], MissingInput)
        assert isinstance(found[second], Reference)

    def test_a_file_that_is_replaced_meanwhile_is_damaged(self, tmp_path) -> None:
        (file,) = self.files(tmp_path, 1)

        def replace(_: int) -> None:
            file.write_bytes(b"longer than before")

        references = References(tmp_path / "home/references.jsonl")
        ((_, found),) = hash_files([file], references, replace)
        assert isinstance(found, DamagedFile)
        assert not references.path.exists()

    def test_what_stops_the_run_stops_the_threads(self, tmp_path) -> None:
        class Stop(BaseException):
            pass

        def stop(_: int) -> None:
            raise Stop

        with pytest.raises(Stop):
            list(hash_files(self.files(tmp_path, 9), References(tmp_path / "r.jsonl"), stop))
