"""Is the art packed without loss, selected rightly, and refused when damaged?"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffgraph.errors import DamagedFile, MissingInput
from recipes.emoji64.art import (
    STYLES,
    Art,
    Subject,
    load_art,
    read_subjects,
    resized,
    save_art,
)

FOX = Subject("1f98a", "fox", ("animal",), "animals")
PIZZA = Subject("1f355", "pizza", ("cheese", "food"), "food")


@pytest.fixture
def art() -> Art:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 64, 64, 4), generator=generator, dtype=torch.uint8)
    images[..., 3] = 255
    images[:, :8] = 0
    return Art(images, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 3, 4]), (FOX, PIZZA))


def test_what_is_packed_comes_back_unchanged(art: Art, tmp_path: Path) -> None:
    save_art(art, tmp_path)
    read = load_art(tmp_path)
    assert torch.equal(read.images, art.images)
    assert read.subject.tolist() == [0, 1, 0, 1]
    assert read.style.tolist() == [0, 0, 3, 4]
    assert read.subjects == (FOX, PIZZA)


def test_art_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"recipes\.emoji64\.art"):
        load_art(tmp_path)


def test_a_damaged_image_is_named(art: Art, tmp_path: Path) -> None:
    packed = save_art(art, tmp_path)
    with np.load(packed) as arrays:
        parts = dict(arrays)
    parts["blob"] = parts["blob"].copy()
    parts["blob"][: parts["ends"][0]] = 0
    np.savez(packed, **parts)
    with pytest.raises(DamagedFile, match=r"art\.npz"):
        load_art(tmp_path)


def test_groups_and_styles_are_selected(art: Art) -> None:
    assert art.where(groups=["food"]).tolist() == [1, 3]
    assert art.where(styles=["noto"]).tolist() == [0, 1]
    assert art.where(["animals"], ["flat", "high contrast"]).tolist() == [2]
    assert art.where().tolist() == [0, 1, 2, 3]
    picked = art.select(art.where(groups=["food"]))
    assert [picked.subjects[place].name for place in picked.subject.tolist()] == ["pizza"] * 2


def test_planes_hold_colour_and_opacity(art: Art) -> None:
    rgb, alpha = art.planes(torch.tensor([2, 0]))
    assert rgb.shape == (2, 3, 64, 64)
    assert alpha.shape == (2, 1, 64, 64)
    assert torch.equal((rgb[0] * 255).round().byte(), art.images[2, ..., :3].permute(2, 0, 1))


def test_edges_keep_their_colour_when_an_image_is_resized() -> None:
    image = Image.new("RGBA", (160, 160), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (40, 40, 120, 120))
    pixels = resized(image)
    assert pixels.shape == (64, 64, 4)
    seen = pixels[pixels[..., 3] > 8]
    assert seen[:, 0].min() > 230  # nothing of the invisible green bleeds in
    assert seen[:, 1].max() < 25
    assert not pixels[:3].any()


def test_flags_and_components_are_left_out(tmp_path: Path) -> None:
    names = {
        "groups": {"2": "component", "3": "animals-nature", "4": "food-drink", "9": "flags"},
        "subgroups": {"1": "animal-mammal", "2": "food-prepared", "3": "country-flag"},
    }
    rows = [
        {"label": "Fox", "hexcode": "1F98A", "tags": ["Animal"], "group": 3, "subgroup": 1},
        {"label": "pizza", "hexcode": "1F355", "group": 4, "subgroup": 2},
        {"label": "flag: Wales", "hexcode": "1F3F4", "group": 9, "subgroup": 3},
        {"label": "red hair", "hexcode": "1F9B0", "group": 2, "subgroup": 3},
        {"label": "regional indicator A", "hexcode": "1F1E6"},
    ]
    tarball = tmp_path / "names.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        for name, content in (("en/data.json", rows), ("meta/groups.json", names)):
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    assert read_subjects(tarball) == (Subject("1f355", "pizza", (), "food"), FOX)


def test_there_are_five_styles() -> None:
    assert STYLES == ("noto", "twemoji", "3d", "flat", "high contrast")
