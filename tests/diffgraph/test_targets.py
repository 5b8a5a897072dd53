"""Nothing that diffgraph keeps, or that somebody has, is written over without a word."""

import os

import pytest

from diffgraph.errors import InputError, StorageError
from diffgraph.families import get_family
from diffgraph.settings import Settings
from diffgraph.targets import (
    FileLayout,
    demand_folder,
    demand_new,
    demand_suffix,
    model_target,
)


@pytest.fixture
def settings(tmp_path) -> Settings:
    """A home with a file in its library, and a base in a file with the folder beside it."""
    for name in ("home/library/files/a.safetensors", "bases/base.safetensors", "bases/base/x.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    base = str(tmp_path / "bases" / "base.safetensors")
    return Settings(home=tmp_path / "home", bases={"sd15": base})


def kept(tmp_path) -> dict:
    """Return names of what is kept, one for each way that it can be called."""
    library, base = tmp_path / "home/library/files", tmp_path / "bases/base.safetensors"
    ways = {
        "itself": base,
        "a file of the library": library / "a.safetensors",
        "a new file in the library": library / "b" / "new.safetensors",
        "beside its name": tmp_path / "bases" / "base" / "new.json",
        "dots": tmp_path / "home" / "other" / ".." / "library" / "new.png",
        "what will be kept": tmp_path / "home" / "scores" / "new",
        "in what will be kept": tmp_path / "home" / "unsent" / "a" / "new",
        "what ships": get_family("emoji64").hub / "new.safetensors",
        "a link": tmp_path / "link.safetensors",
        "a folder's link": tmp_path / "linked" / "new.safetensors",
        "a hard link": tmp_path / "hard.safetensors",
        "a hard link of the library's": tmp_path / "hard2.safetensors",
    }
    (tmp_path / "home" / "other").mkdir()
    ways["a link"].symlink_to(base)
    (tmp_path / "linked").symlink_to(library)
    os.link(base, ways["a hard link"])
    os.link(library / "a.safetensors", ways["a hard link of the library's"])
    return ways


@pytest.mark.parametrize("force", [False, True])
def test_what_is_kept_is_never_written_whatever_it_is_called(settings, tmp_path, force):
    for path in kept(tmp_path).values():
        with pytest.raises(InputError, match="nothing is written there"):
            demand_new(path, settings, force)
        if not path.is_file():
            with pytest.raises(InputError, match="nothing is written there"):
                demand_folder(path.parent, settings, force)


def test_a_base_that_is_made_of_links_is_kept_where_they_lead(settings, tmp_path):
    blob = tmp_path / "blobs" / "1234.safetensors"
    blob.parent.mkdir()
    blob.write_text("weights")
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "w.safetensors").symlink_to(blob)
    with_links = Settings(home=settings.home, bases={"sd15": str(tmp_path / "model")})
    with pytest.raises(InputError, match="the base of sd15"):
        demand_new(blob, with_links, force=True)
    demand_new(blob.with_name("new.safetensors"), with_links)


def test_a_file_that_is_there_goes_only_when_asked(settings, tmp_path):
    file = tmp_path / "notes.safetensors"
    file.write_text("mine")
    with pytest.raises(InputError, match="--force"):
        demand_new(file, settings)
    demand_new(file, settings, force=True)
    demand_new(tmp_path / "free.safetensors", settings)


def test_what_is_no_file_never_goes(settings, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("pipe", "nowhere"):
        with pytest.raises(InputError, match="is no file"):
            demand_new(tmp_path / name, settings, force=True)


def test_a_folder_goes_only_when_asked_and_written_by_us(settings, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    demand_new(folder, settings)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="--force"):
        demand_new(folder, settings, ours="about.json")
    with pytest.raises(InputError, match="it stays"):
        demand_new(folder, settings, force=True, ours="about.json")
    (folder / "about.json").write_text("{}")
    demand_new(folder, settings, force=True, ours="about.json")


def test_a_folder_that_holds_what_is_kept_never_goes(settings, tmp_path):
    (tmp_path / "about.json").write_text("{}")
    with pytest.raises(InputError, match="it stays"):
        demand_new(tmp_path, settings, force=True, ours="about.json")


class TestFoldersOfFiles:
    def test_may_be_there(self, settings, tmp_path):
        demand_folder(tmp_path, settings, files=("new.json",))

    def test_keep_what_is_there(self, settings, tmp_path):
        (tmp_path / "results.parquet").touch()
        with pytest.raises(InputError, match="--force"):
            demand_folder(tmp_path, settings, files=("results.parquet",), begun="parts")
        demand_folder(tmp_path, settings, True, ("results.parquet",), begun="parts")

    def test_are_gone_on_with(self, settings, tmp_path):
        (tmp_path / "results.parquet").touch()
        (tmp_path / "parts").mkdir()
        demand_folder(tmp_path, settings, files=("results.parquet",), begun="parts")
        with pytest.raises(InputError, match="what is read"):
            demand_folder(tmp_path, settings, True, ("results.parquet",), "parts",
                          tmp_path / "results.parquet")  # fmt: skip

    def test_are_no_files(self, settings, tmp_path):
        (tmp_path / "mine").touch()
        for name in ("mine", "cat.png", "results.parquet"):
            with pytest.raises((InputError, StorageError), match="folder"):
                demand_folder(tmp_path / name, settings)


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("m.safetensors", FileLayout.SINGLE_FILE),
        ("M.SafeTensors", FileLayout.SINGLE_FILE),
        ("m.sft", FileLayout.SINGLE_FILE),
        ("model", FileLayout.DIFFUSERS),
        ("model-v1.5/", FileLayout.DIFFUSERS),
        ("out/model", FileLayout.DIFFUSERS),
    ],
)
def test_a_name_says_which_layout(text, layout):
    assert model_target(text, None)[1] == layout


@pytest.mark.parametrize(
    "text", ["m.ckpt", "m.pt", "m.pth", "m.bin", "m.gguf", "m.GGUF", "m.png", "m.json", "m-v1.5"]
)
def test_a_name_of_neither_is_refused(text):
    with pytest.raises(InputError, match=r"\.safetensors or \.sft file, or as a folder"):
        model_target(text, None)


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("m.safetensors", FileLayout.DIFFUSERS),
        ("m.ckpt", FileLayout.DIFFUSERS),
        ("m.ckpt", FileLayout.SINGLE_FILE),
        ("model", FileLayout.SINGLE_FILE),
        ("model.safetensors/", FileLayout.SINGLE_FILE),
    ],
)
def test_a_name_that_contradicts_the_layout_is_refused(text, layout):
    with pytest.raises(InputError):
        model_target(text, layout)


def test_a_folder_that_is_there_is_one_whatever_its_name(tmp_path):
    (tmp_path / "m-v1.5").mkdir()
    assert model_target(str(tmp_path / "m-v1.5"), None)[1] == FileLayout.DIFFUSERS


def test_a_report_is_a_page(tmp_path):
    demand_suffix(tmp_path / "Report.HTML", (".html", ".htm"))
    with pytest.raises(InputError, match=r"\.html"):
        demand_suffix(tmp_path / "report.pdf", (".html", ".htm"))


def test_a_report_of_ours_is_told_from_other_pages(tmp_path):

    import diffgraph.evaluation.report as written
    from flows.evaluate import _is_ours

    template = (written.TEMPLATES / "report.html.j2").read_text()
    for name, text, ours in (("a", template, True), ("b", "<html><head></head></html>", False)):
        page = tmp_path / f"{name}.html"
        page.write_text(text)
        assert _is_ours(page) == ours
    assert not _is_ours(tmp_path / "none.html")
