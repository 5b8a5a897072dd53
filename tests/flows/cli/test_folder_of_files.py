"""A person's own folder of weights files: found, then merged from where it is."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffgraph.crawlers.discovery import discover
from diffgraph.crawlers.folder_of_files import FolderOfFiles
from diffgraph.experts.autov3 import autov3_of
from diffgraph.experts.library import Library
from diffgraph.families import get_family
from diffgraph.progress import listening
from diffgraph.session.hubs import Hub
from tasks.discovery import look_at_hub
from tests.infotext import as_a1111

HUB = Path(str(get_family("emoji64").hub)) / "files"
TRAINED = {
    "blueprint": ("blueprint", "white lines", "technical drawing"),
    "pencil": ("pencil sketch", "grey strokes", "paper"),
}


def as_trained(name: str, folder: Path) -> Path:
    """Write a shipped expert's weights with the header that kohya's trainer leaves."""
    trigger, *tags = TRAINED[name]
    with safe_open(HUB / f"{name}.safetensors", "pt") as file:
        kept = {key: value for key, value in (file.metadata() or {}).items() if "adapter" in key}
    frequency = {f"10_{trigger}": {tag: 9 - at for at, tag in enumerate((trigger, *tags))}}
    header = {
        "ss_output_name": f"{name}_v1",
        "ss_tag_frequency": json.dumps(frequency),
        "ss_dataset_dirs": json.dumps({f"10_{trigger}": {"n_repeats": 10, "img_count": 20}}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.safetensors"
    save_file(load_file(HUB / f"{name}.safetensors"), target, kept | header)
    return target


@pytest.fixture
def stocked(tmp_path) -> Library:
    for name in TRAINED:
        as_trained(name, tmp_path / "loras")
    library, family = Library(tmp_path / "home"), get_family("emoji64")
    discover(FolderOfFiles(tmp_path / "loras", family, library), library, family)
    return library


def test_a_plan_of_them_is_merged_as_the_shipped_ones_are(diffgraph, stocked, tmp_path):
    experts = {expert.name: expert for expert in stocked.experts("ready")}
    assert set(experts) == {"blueprint_v1", "pencil_v1"}
    kept = Library(tmp_path / "kept")
    written = {}
    for home, library in (("home", stocked), ("kept", kept)):
        if library is kept:  # the same weights and headers, brought in as any hub's are
            _as_a_hub(tmp_path / "loras", tmp_path / "laid_out", kept)
        plan = {
            "family": "emoji64",
            "experts": [
                {"ref": one.ref, "kind": one.kind, "coefficient": 0.6}
                for one in sorted(library.experts("ready"), key=lambda one: one.sha256)
            ],
        }
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        out = tmp_path / f"{home}.safetensors"
        told = diffgraph("merge", tmp_path / "plan.json", "--out", out, "--home", tmp_path / home)
        assert told.code == 0, told.err
        written[home] = load_file(out)
        if library is stocked:
            assert "its licence is not known" in told.out
    assert written["home"].keys() == written["kept"].keys()
    assert all((written["home"][key] == written["kept"][key]).all() for key in written["home"])


def test_a_file_that_has_changed_since_is_never_merged(diffgraph, stocked, tmp_path):
    expert = stocked.experts("ready")[0]
    file = stocked.path_of(expert.sha256)
    file.write_bytes(b"x" * file.stat().st_size)
    told = diffgraph("show", "expert", expert.ref, "--home", tmp_path / "home")
    assert told.code == 0, told.err
    experts = [{"ref": expert.ref, "kind": expert.kind, "coefficient": 1.0}]
    (tmp_path / "plan.json").write_text(json.dumps({"family": "emoji64", "experts": experts}))
    told = diffgraph(
        "merge", tmp_path / "plan.json", "--out", tmp_path / "o.safetensors",
        "--home", tmp_path / "home",
    )  # fmt: skip
    assert told.code == 1
    why = f"{file} is another file since it was discovered: discover it again"
    assert why in " ".join(told.err.split())
    assert not (tmp_path / "o.safetensors").exists()


def _as_a_hub(files: Path, hub: Path, library: Library) -> None:
    from diffgraph.crawlers.folder import FolderCrawler

    (hub / "models").mkdir(parents=True)
    shutil.copytree(files, hub / "files")
    (hub / "hub.json").write_text('{"name": "laid_out"}')
    for number, file in enumerate(sorted(files.iterdir()), 1):
        version = {
            "id": number,
            "baseModel": "emoji64",
            "files": [{"downloadUrl": f"files/{file.name}"}],
        }
        page = {"id": number, "name": file.stem, "type": "LORA", "modelVersions": [version]}
        (hub / f"models/{number}.json").write_text(json.dumps(page))
    discover(FolderCrawler(hub), library, get_family("emoji64"))


def test_other_tools_know_them_by_their_places_and_hashes(diffgraph, tmp_path):
    as_trained("pencil", tmp_path / "models" / "loras" / "styles")
    library, family = Library(tmp_path / "home"), get_family("emoji64")
    discover(FolderOfFiles(tmp_path / "models", family, library), library, family)
    (pencil,) = library.experts("ready")
    plan = {"experts": [{"ref": pencil.ref, "kind": "peft", "coefficient": 0.6}]}
    (tmp_path / "plan.json").write_text(json.dumps({"family": "emoji64", **plan}))
    said = ("--plan", tmp_path / "plan.json", "--home", tmp_path / "home", "--out", tmp_path)
    told = diffgraph("generate", "a fox", *said, "--json")
    assert told.code == 0, told.err
    file = told.json["images"][0]["file"]
    with Image.open(file) as opened:
        texts = opened.info
    found = as_a1111(texts["parameters"])
    assert found.tags == [("lora", "pencil", "0.6")]
    assert found.lora_hashes == {"pencil": autov3_of(HUB / "pencil.safetensors")}
    assert found.lora_hashes["pencil"] in (library.folder / "autov3.jsonl").read_text()
    assert texts["diffgraph.debts"].startswith("ask the maker of pencil")
    assert texts["diffgraph.debts"].endswith("its licence is not known")
    graph = diffgraph("merge", file, "--syntax", "comfyui", "--home", tmp_path / "home")
    names = [node["inputs"].get("lora_name") for node in json.loads(graph.out).values()]
    assert "styles/pencil.safetensors" in names


def test_progress_reaches_its_end_once_and_counts_the_files_that_are_opened(tmp_path):
    for name in TRAINED:
        as_trained(name, tmp_path / "loras")
    heard = []
    with listening(lambda stage, done, total, _: heard.append((stage, done, total))):
        look_at_hub.fn(Hub(path=tmp_path / "loras"), tmp_path / "home", "emoji64")
    assert heard.count(("discover", 2, 2)) == 1
    assert [one for one in heard if one[0] == "open"] == [("open", 1, None), ("open", 2, None)]


def test_what_is_removed_stays_in_its_own_folder(diffgraph, stocked, tmp_path):
    expert = stocked.experts("ready")[0]
    file = stocked.path_of(expert.sha256)
    told = diffgraph("remove", expert.ref, "--reason", "tired", "--home", tmp_path / "home")
    assert "nothing in your own folders" in told.out
    assert file.is_file()


def test_a_file_for_another_family_is_told_so(tmp_path):
    file = as_trained("pencil", tmp_path / "loras")
    save_file(load_file(file), file, {"ss_base_model_version": "sd_v1"})
    library, family = Library(tmp_path / "home"), get_family("emoji64")
    crawler = FolderOfFiles(tmp_path / "loras", family, library)
    found = discover(crawler, library, family)
    (refused,) = found.rejected
    assert (
        "the family is emoji64: if these are for another, say which with --family" in found.lines()
    )
    assert refused.reason.endswith("the base is another model")
